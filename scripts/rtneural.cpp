/* One layer and a Linear head in RTNeural, whose sizes are known when this is compiled: CELL, GATES, INPUTS, UNITS. */
#include <RTNeural/RTNeural.h>

using Rows = std::vector<std::vector<float>>;
using Cell = RTNeural::CELL<float, INPUTS, UNITS>;
using Net = RTNeural::ModelT<float, INPUTS, 1, Cell, RTNeural::DenseT<float, UNITS, 1>>;

/* PyTorch's GRU has the gate of the reset first, RTNeural's that of the update. */
static int output(int o)
{
    const int gate = o / UNITS;
    return (GATES == 3 && gate < 2 ? 1 - gate : gate) * UNITS + o % UNITS;
}
static Rows by_input(const float *w, int inputs)
{
    Rows rows(inputs, std::vector<float>(GATES * UNITS));
    for (int o = 0; o < GATES * UNITS; o++)
        for (int i = 0; i < inputs; i++)
            rows[i][output(o)] = w[o * inputs + i];
    return rows;
}
template <class Layer> static auto set_bias(Layer &layer, const float *b) -> decltype(layer.setBVals(Rows()), void())
{
    Rows rows(2, std::vector<float>(GATES * UNITS));
    for (int o = 0; o < 2 * GATES * UNITS; o++)
        rows[o / (GATES * UNITS)][output(o % (GATES * UNITS))] = b[o];
    layer.setBVals(rows);
}
template <class Layer> static auto set_bias(Layer &layer, const float *b) -> decltype(layer.setBVals(Rows()[0]), void())
{
    std::vector<float> sum(GATES * UNITS);
    for (int o = 0; o < GATES * UNITS; o++)
        sum[o] = b[o] + b[GATES * UNITS + o];
    layer.setBVals(sum);
}

/* The weights of torch's layer and head, one after the other. */
extern "C" void *net_open(const float *w)
{
    Net *net = new Net;
    net->get<0>().setWVals(by_input(w, INPUTS));
    net->get<0>().setUVals(by_input(w += GATES * UNITS * INPUTS, UNITS));
    set_bias(net->get<0>(), w += GATES * UNITS * UNITS);
    w += 2 * GATES * UNITS;
    net->get<1>().setWeights(Rows{std::vector<float>(w, w + UNITS)});
    net->get<1>().setBias(w + UNITS);
    net->reset();
    return net;
}
extern "C" void net_run(void *net, const float *x, float *y, size_t steps)
{
    for (size_t s = 0; s < steps; s++)
        y[s] = static_cast<Net *>(net)->forward(x + s * INPUTS);
}
