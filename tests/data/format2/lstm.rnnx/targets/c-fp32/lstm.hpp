/** @file lstm.hpp
 *  Streams of lstm in C++17: the functions of lstm.h around a state that they own.
 *
 *  Nothing is allocated, nothing throws, and of C++'s library nothing is needed.
 */
#ifndef LSTM_HPP
#define LSTM_HPP

#include "lstm.h"

namespace rnn::lstm {

using size_type = decltype(sizeof 0);

/** N values that lie one after the other, and belong to somebody else.
 *
 *  Made of an array, a std::array, or a std::span of that very size; or, by view::at, of the address of the first. */
template <class T, size_type N>
class view {
public:
    constexpr view(T (&values)[N]) noexcept : first_(values) {}
    template <template <class, size_type> class Container, class Value>
    constexpr view(Container<Value, N> &values) noexcept : first_(values.data()) {}
    template <template <class, size_type> class Container, class Value>
    constexpr view(const Container<Value, N> &values) noexcept : first_(values.data()) {}
    /** Of whoever knows that N values lie there. */
    static constexpr view at(T *first) noexcept { return view(first, nullptr); }

    constexpr T *data() const noexcept { return first_; }
    static constexpr size_type size() noexcept { return N; }
    constexpr T *begin() const noexcept { return first_; }
    constexpr T *end() const noexcept { return first_ + N; }
    constexpr T &operator[](size_type i) const noexcept { return first_[i]; }

private:
    constexpr view(T *first, decltype(nullptr)) noexcept : first_(first) {}
    T *first_;
};

/** The contract that the model was exported with. */
inline constexpr const char *digest = LSTM_DIGEST;
/** Frames in one step. */
inline constexpr size_type chunk = LSTM_CHUNK;
/** Frames at the start of a stream that give no output: what a step writes until then is of no value. */
inline constexpr size_type delay = LSTM_DELAY;
/** Bytes of the memory of a stream, and of the stack that a step needs for its tensors. */
inline constexpr size_type state_bytes = LSTM_STATE_BYTES, stack_bytes = LSTM_STACK_BYTES;
/** Values of x in one step: (1, 4), float32, of (time, 4). */
inline constexpr size_type x_size = LSTM_X_SIZE;
/** Values of output in one step: (1, 8), float32, of (time, 8). */
inline constexpr size_type output_size = LSTM_OUTPUT_SIZE;

/** One stream. A copy goes on from the same frame, apart from the first: it is a snapshot, too. */
class stream {
public:
    /** At the start. */
    stream() noexcept { lstm_init(&state_); }

    /** Back to the start. */
    void reset() noexcept { lstm_init(&state_); }

    /** Feed one step, and write its outputs after the last input was read: an output may be an input. */
    void step(view<const float, x_size> in0, view<float, output_size> out0) noexcept
    {
        lstm_step(&state_, in0.data(), out0.data());
    }

    /** The same for `steps` steps, one after the other, each array with those of all. */
    void run(const float *in0, float *out0, size_type steps) noexcept
    {
        lstm_run(&state_, in0, out0, steps);
    }


    /** A copy of all that it remembers: plain bytes, as lstm.h has them. */
    lstm_state snapshot() const noexcept { return state_; }

    /** Go on from where a snapshot was taken. */
    void restore(const lstm_state &snapshot) noexcept
    {
        state_ = snapshot;
    }

private:
    lstm_state state_;
};

}

#endif
