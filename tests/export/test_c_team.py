"""Code behind -DNAME_THREADS: absent without it, the same bits with it, and no race."""

import re
from unittest import mock

import pytest

from rnn_export.export.targets.c.code.parallel_regions import SHARED_BYTES

from ..native.needs import need  # noqa: TID252
from ..native.quality import CPP, FAST, STRICT, lay_out, run, symbols  # noqa: TID252
from .c_streams import main_of, sources_of

# Two callers with a team of three, each over its own streams, the one forking amid steps; both beside steps alone.
MAIN = """
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "net.h"
static net_team team;
static int steps(net_state *alone, net_state *shared, int count)
{
    int wrong = 0;
    for (int step = 0; step < count; step++) {
        float in[IN], one[OUT], other[OUT];
        for (int i = 0; i < IN; i++)
            in[i] = (float)((i * 37 + step * 11) % 19) / 19.0f - 0.5f;
        net_step(alone, in, one);
        net_team_step(&team, shared, in, other);
        wrong |= memcmp(one, other, sizeof one) || memcmp(alone, shared, sizeof *alone);
    }
    return wrong;
}
static void *caller(void *wrong)
{
    net_state *two = calloc(2, sizeof *two);
    net_init(two);
    net_init(two + 1);
    *(int *)wrong = steps(two, two + 1, STEPS);
#ifdef FORKS
    for (int i = 0; i < 5; i++) {
        int status;
        pid_t child = fork();
        if (!child)
            _exit(steps(two, two + 1, 5));
        waitpid(child, &status, 0);
        *(int *)wrong |= status != 0;
    }
#endif
    free(two);
    return NULL;
}
int main(void)
{
    int wrong[2] = {0, 0};
    pthread_t other;
    if (net_team_start(&team, 3, NULL) || net_team_start(&(net_team){{0}}, 0, NULL) != 22)
        return 3;
    pthread_create(&other, NULL, caller, wrong);
    caller(wrong + 1);
    pthread_join(other, NULL);
    net_team_stop(&team);
    puts(wrong[0] || wrong[1] ? "different" : "same");
    return 0;
}
"""


@pytest.fixture(scope="module")
def shared():
    with mock.patch("rnn_export.export.targets.c.code.code_builder.SHARED_BYTES", 1):
        return sources_of("many-cells")


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_with_and_without(compiler, shared, tmp_path):
    """With every warning an error, as C and as C++; without the define there is nothing of it."""
    need(compiler, CPP[compiler])
    lay_out(shared[0], tmp_path)
    own, team = (
        {f"net_{what}" for what in ("init", "step", "run", "finish", "length_output")},
        {f"net_team_{what}" for what in ("start", "stop", "step")},
    )
    quick = [flag if flag != "-O3" else "-O1" for flag in FAST]
    for flags, wanted in (((), own), (("-DNET_THREADS",), own | team)):
        run([compiler, *STRICT, *quick, *flags, "-c", "net.c", "-o", "net.o"], tmp_path)
        found = symbols(tmp_path / "net.o")
        assert {symbol for symbol, letter in found.items() if letter == "T"} == wanted
        assert bool({symbol for symbol, letter in found.items() if letter in "DdBb"}) is bool(flags)
        assert ("pthread_create" in found) is bool(flags)
        cpp = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-x", "c++", "-c", "net.c", "-o", "cpp.o"]
        run([CPP[compiler], *quick, *flags, *cpp], tmp_path)


def test_the_code_without_is_as_if_nobody_had_thought_of_threads(shared, tmp_path):
    need("gcc")
    files, _ = shared
    text = files["net.c"].decode()
    bare = re.sub(r"#ifdef NET_THREADS\n.*?#else\n(.*?)#endif\n", r"\1", text, flags=re.DOTALL)
    bare = re.sub(r"#ifdef NET_THREADS\n.*?#endif\n", "", bare, flags=re.DOTALL)
    bare = re.sub(r"^ *(#define )?RNN_(SEEN|PHASE)\b.*\n", "", bare, flags=re.MULTILINE)
    assert bare.count("THREADS") == 1
    codes = []
    for source in (text, bare):
        lay_out({**files, "net.c": source.encode()}, tmp_path)
        run(["gcc", *STRICT, *FAST, "-c", "net.c", "-o", "net.o"], tmp_path)
        run(["objcopy", "-O", "binary", "-j", ".text", "net.o", "text"], tmp_path)
        codes.append((tmp_path / "text").read_bytes())
    assert codes[0] == codes[1] != b""


@pytest.mark.parametrize(
    ("compiler", "flags"),
    [
        ("gcc", (*FAST, "-march=native", "-DFORKS", "-DSTEPS=500")),
        ("clang", ("-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DFORKS", "-DSTEPS=10")),
        ("gcc", ("-O1", "-g", "-fsanitize=thread", "-DSTEPS=100")),
        ("aarch64-linux-gnu-gcc", (*FAST, "-static", "-DFORKS", "-DSTEPS=20")),
    ],
    ids=["fast", "memory", "races", "arm"],
)
def test_callers_that_share_a_team(compiler, flags, shared, tmp_path):
    emulator = ["qemu-aarch64"] * compiler.startswith("aarch64")
    need(compiler, *emulator)
    files, spec = shared
    lay_out({**files, "user.c": main_of(MAIN, spec)}, tmp_path)
    run([compiler, *flags, "-DNET_THREADS", "net.c", "user.c", "-o", "user", "-pthread", "-lm"], tmp_path)
    assert run([*emulator, "./user"], tmp_path) == "same\n"


def test_a_step_of_few_weights_has_no_team():
    files, _ = sources_of("lstm-in-c")
    assert "rnn_team.h" not in files
    assert b"NET_THREADS" not in files["net.h"] + files["net.c"]
    assert f"no operator has {SHARED_BYTES // 1024} KiB of weights".encode() in files["net.h"]
