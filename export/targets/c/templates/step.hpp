/** @file $name.hpp
 *  Streams of $name in C++17: the functions of $name.h around a state that they own.
 *
 *  Nothing is allocated, nothing throws, and of C++'s library nothing is needed.
 */
#ifndef NAME_HPP
#define NAME_HPP

#include "$name.h"

namespace rnn::$name {

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
inline constexpr const char *digest = NAME_DIGEST;
/** Frames in one step. */
inline constexpr size_type chunk = NAME_CHUNK;
/** Frames at the start of a stream that give no output: what a step writes until then is of no value. */
inline constexpr size_type delay = NAME_DELAY;
//@if tail
/** Frames of an output, at most, that only the end of a sequence gives. */
inline constexpr size_type tail = NAME_TAIL;
//@end tail
//@if sample_rate
/** Hz of the signal. */
inline constexpr double sample_rate = NAME_SAMPLE_RATE;
//@end sample_rate
/** Bytes of the memory of a stream, and of the stack that a step needs for its tensors. */
inline constexpr size_type state_bytes = NAME_STATE_BYTES, stack_bytes = NAME_STACK_BYTES;
//@if weights_file
/** Bytes of $name.bin. */
inline constexpr size_type weights_bytes = NAME_WEIGHTS_BYTES;

/** Whether the bytes are those of $name.bin: 0, or what name_check says is wrong. */
inline int check(const void *weights, size_type bytes) noexcept { return name_check(weights, bytes); }
//@end weights_file
//@each ports
/** Values of $label in one step: $shape, $dtype$axes. */
inline constexpr size_type ${parameter}_size = NAME_${macro}_SIZE;
//@end ports
//@if tail
//@each ports
//@if length

/** Frames of $label of a whole sequence of `frames` frames of the input. */
inline size_type length_$parameter(size_type frames) noexcept { return name_length_$parameter(frames); }
//@end length
//@end ports
//@end tail

/** One stream. A copy goes on from the same frame, apart from the first: it is a snapshot, too. */
class stream {
public:
//@if weights_file
    /** At the start; `weights`, the content of $name.bin, is read as long as it lives. */
    explicit stream(const void *weights) noexcept { name_init(&state_, weights); }

    /** Back to the start. */
    void reset() noexcept { name_init(&state_, state_.weights); }
//@end weights_file
//@unless weights_file
    /** At the start. */
    stream() noexcept { name_init(&state_); }

    /** Back to the start. */
    void reset() noexcept { name_init(&state_); }
//@end weights_file

    /** Feed one step, and write its outputs after the last input was read: an output may be an input. */
    void step($views) noexcept
    {
        name_step(&state_, $view_arguments);
    }

    /** The same for `steps` steps, one after the other, each array with those of all. */
    void run($parameters, size_type steps) noexcept
    {
        name_run(&state_, $buffers, steps);
    }
//@if tail

    /** Say that the sequence ends in the next step, after `rest` of its frames: 0 where it ended with the step before.
     *
     *  What is fed behind them may be anything. Step on until the outputs are as long as length_... says. */
    void finish(size_type rest) noexcept { name_finish(&state_, rest); }
//@end tail

//@if notes
    /** 0, or since the start an index was out of its table: which of NAME_WRONG_INDICES, from 1 on. */
    uint32_t wrong_index() const noexcept { return state_.wrong_index; }
//@end notes

    /** A copy of all that it remembers: plain bytes, as $name.h has them. */
    name_state snapshot() const noexcept { return state_; }

    /** Go on from where a snapshot was taken. */
    void restore(const name_state &snapshot) noexcept
    {
//@if weights_file
        const void *const weights = state_.weights;
        state_ = snapshot;
        state_.weights = weights;
//@end weights_file
//@unless weights_file
        state_ = snapshot;
//@end weights_file
    }

private:
    name_state state_;
};

}

#endif
