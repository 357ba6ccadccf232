// Pairs of samples on stdin, left and right, and on stdout what the amp makes of them; the right one starts over.
#include <amp.hpp>

#include <array>
#include <cstdio>
#include <cstdlib>

int main(int argc, char **argv)
{
    const long again = argc > 1 ? std::atol(argv[1]) : -1;
    rnn::amp::stream left, right;
    std::array<float, rnn::amp::dry_size> dry_left, dry_right;
    std::array<float, rnn::amp::wet_size> wet_left, wet_right;

    for (long sample = 0;; sample++) {
        if (std::fread(dry_left.data(), sizeof dry_left, 1, stdin) != 1
            || std::fread(dry_right.data(), sizeof dry_right, 1, stdin) != 1)
            return 0;
        if (sample == again)
            right.reset();
        left.step(dry_left, wet_left);
        right.step(dry_right, wet_right);
        std::fwrite(wet_left.data(), sizeof wet_left, 1, stdout);
        std::fwrite(wet_right.data(), sizeof wet_right, 1, stdout);
    }
}
