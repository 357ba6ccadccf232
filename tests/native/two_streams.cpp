// Two streams in turn, one of them reset, copied and set back, bit for bit what the functions in C give.
#include "NAME.hpp"

#include <array>
#include <cstdio>
#include <cstring>
#include <type_traits>
#if __cplusplus >= 202002L
#include <span>
#endif

namespace model = rnn::NAME;
constexpr std::size_t inputs = model::INPUT_size, outputs = model::OUTPUT_size;

static_assert(std::is_trivially_copyable_v<model::stream>);
static_assert(sizeof(model::stream) == model::state_bytes);
static_assert(noexcept(std::declval<model::stream &>().reset()));
// A size that is not the model's is no view of it.
static_assert(std::is_constructible_v<model::view<const float, 4>, std::array<float, 4> &>);
static_assert(std::is_constructible_v<model::view<const float, 4>, const std::array<float, 4> &>);
static_assert(std::is_constructible_v<model::view<const float, 4>, float (&)[4]>);
static_assert(!std::is_constructible_v<model::view<const float, 4>, std::array<float, 5> &>);
static_assert(!std::is_constructible_v<model::view<const float, 4>, float (&)[5]>);
static_assert(!std::is_convertible_v<float *, model::view<const float, 4>>);
#if __cplusplus >= 202002L
static_assert(std::is_convertible_v<std::span<float, 4>, model::view<const float, 4>>);
static_assert(!std::is_constructible_v<model::view<const float, 4>, std::span<float>>);
#endif

using input = std::array<float, inputs>;
using output = std::array<float, outputs>;

static int wrong(const output &ours, const output &theirs)
{
    return std::memcmp(ours.data(), theirs.data(), sizeof ours) != 0;
}

int main()
{
    model::stream one START, two START;
    NAME_state first, second;
    NAME_init(&first WEIGHTS);
    NAME_init(&second WEIGHTS);
    int bad = 0;
    for (int frame = 0; frame < 60; frame++) {
        input x{}, z{};
        for (std::size_t i = 0; i < x.size(); i++) {
            x[i] = static_cast<float>((frame * 7 + static_cast<int>(i) * 3) % 11) / 5.0f - 1.0f;
            z[i] = -0.5f * x[i];
        }
        output a{}, b{}, c{}, d{};
        if (frame == 20) {
            two.reset();
            NAME_init(&second WEIGHTS);
        }
        one.step(x, a);
        NAME_step(&first, x.data(), c.data());
        two.step(z, b);
        NAME_step(&second, z.data(), d.data());
        bad += wrong(a, c) + wrong(b, d);
        if (frame == 30) {
            const auto saved = one.snapshot();
            model::stream copy = one;
            float again[outputs], same[outputs];
            copy.step(x, again);
            one.step(x, model::view<float, outputs>::at(same));
            bad += std::memcmp(again, same, sizeof same) != 0;
            one.restore(saved);
        }
    }
    std::puts(bad ? "FAIL" : "PASS");
    return bad;
}
