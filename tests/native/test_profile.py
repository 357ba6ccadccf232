"""The time of each operator: compiled out by default, by a clock of one's own, and in a bench."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ..trusting import trusted  # noqa: TID252
from .command import invoke, refused
from .models import Written
from .needs import need
from .quality import FAST, SANITIZE, STRICT, called, compile_object, lay_out, run, run_selftest, symbols

Get = Callable[[str, str], Written]

# A clock that counts how often it is read: so many ticks are between two readings.
COUNTING = """
#include <stdint.h>
static inline uint32_t rnn_clock(void)
{
    static uint32_t readings = 0xfffffff0u;
    return readings++;
}
"""
# Of a Cortex-M3 and up: the page of the target shows it.
CYCLES = """
#include <stdint.h>
static inline uint32_t rnn_clock(void) { return *(volatile uint32_t *)0xE0001004; } /* DWT->CYCCNT */
"""
TABLE = """
#include "{name}.h"
#include <stdio.h>
int main(void)
{{
    static {name}_state state;
    static float x[{upper}_{x}_SIZE], y[{upper}_{y}_SIZE];
    {name}_init(&state);
    for (int i = 0; i < 10; i++)
        {name}_step(&state, x, y);
    for (int i = 0; i < {upper}_OPERATORS; i++)
        printf("%s %s %lu %lu\\n", {name}_profile[i].layer, {name}_profile[i].type,
               (unsigned long){name}_profile[i].calls, (unsigned long){name}_profile[i].ticks);
}}
"""


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_nothing_is_left_of_it_by_default(compiler: str, written: Get, tmp_path: Path) -> None:
    """The object is the same, byte for byte, as of a source without it."""
    need(compiler)
    its = written("lstm", "fp32")
    text = its.files["lstm.c"].decode()
    bare = re.sub(r"^ *RNN_(TOOK\(\d+\)|CLOCK_STARTS)\n", "", text, flags=re.MULTILINE)
    bare = re.sub(r"^#ifdef RNN_PROFILE\n.*?#define RNN_TOOK\(i\)\n#endif\n", "", bare, flags=re.MULTILINE | re.DOTALL)
    assert text.count("RNN_TOOK(") > 3
    assert "RNN_TOOK" not in bare
    objects = []
    for number, source in enumerate((text, bare)):
        (tmp_path / str(number)).mkdir()
        files = {**its.files, "lstm.c": source.encode()}
        objects.append(compile_object(files, "lstm", compiler, tmp_path / str(number)).read_bytes())
    assert objects[0] == objects[1]


def test_a_clock_of_ones_own_and_a_table_of_operators(written: Get, tmp_path: Path) -> None:
    """Every operator has one reading of the clock a step, whose 32 bits may turn over."""
    need("gcc")
    its = written("lstm", "fp32")
    lay_out(its.files, tmp_path)
    (tmp_path / "counting.h").write_text(COUNTING)
    x, y = (tensor[0].name.upper() for tensor in (its.spec.inputs, its.spec.outputs))
    (tmp_path / "table.c").write_text(TABLE.format(name="lstm", upper="LSTM", x=x, y=y))
    defines = ["-DRNN_PROFILE", '-DRNN_CLOCK="counting.h"']
    run(["gcc", *STRICT, *SANITIZE, *defines, "table.c", "lstm.c", "-o", "table"], tmp_path)
    rows = [line.rsplit(" ", 3) for line in run(["./table"], tmp_path).splitlines()]
    assert {(int(calls), int(ticks)) for *_, calls, ticks in rows} == {(10, 10)}
    named = [(layer, kind) for layer, kind, *_ in rows]
    assert ("rnn.l0", "LSTM") in named
    assert ("head", "MatMul") in named
    assert named[-2:] == [("outputs and states", "copy"), ("a reading", "clock")]


def test_programs_with_a_profile(written: Get, tmp_path: Path) -> None:
    """By nanoseconds, in C99 of any kind: the stream says its table, and both programs do what they did."""
    need("gcc")
    its = written("lstm", "fp32")
    lay_out(its.files, tmp_path)
    run(["gcc", *STRICT, *FAST, "-DRNN_PROFILE", "selftest.c", "lstm.c", "-lm", "-o", "selftest"], tmp_path)
    run_selftest(its.files, "lstm", tmp_path)
    run(["gcc", *STRICT, *FAST, "-DRNN_PROFILE", "main.c", "lstm.c", "-lm", "-o", "stream"], tmp_path)
    frames = b"".join(array.tobytes() for array in its.inputs[0])
    done = subprocess.run(["./stream"], cwd=tmp_path, input=frames, capture_output=True, check=True)
    plain = subprocess.run(["gcc", *FAST, "main.c", "lstm.c", "-lm", "-o", "plain"], cwd=tmp_path, check=True)
    assert plain.returncode == 0
    assert (
        done.stdout == subprocess.run(["./plain"], cwd=tmp_path, input=frames, capture_output=True, check=True).stdout
    )
    shares = [float(share) for share in re.findall(rb"^ *([\d.]+) %  ", done.stderr, re.MULTILINE)]
    assert sum(shares) == pytest.approx(100, abs=1)
    assert re.search(rb"ticks a step  LSTM +rnn\.l0$", done.stderr, re.MULTILINE)


def test_cycles_of_a_cortex_m(written: Get, tmp_path: Path) -> None:
    """Compiled, not run: QEMU has no DWT. It calls for no clock of the system."""
    need("arm-none-eabi-gcc", "arm-none-eabi-nm")
    its = written("lstm", "fp32")
    lay_out(its.files, tmp_path)
    (tmp_path / "cycles.h").write_text(CYCLES)
    flags = [*FAST, "-mcpu=cortex-m4", "-mthumb", "-DRNN_PROFILE", '-DRNN_CLOCK="cycles.h"', "-c", "lstm.c"]
    run(["arm-none-eabi-gcc", *STRICT, *flags], tmp_path)
    with pytest.raises(AssertionError, match="there is no clock_gettime here: give a header"):
        run(["arm-none-eabi-gcc", *STRICT, *FAST, "-DRNN_PROFILE", "-fsyntax-only", "lstm.c"], tmp_path)
    found = symbols(tmp_path / "lstm.o", "arm-none-eabi-nm")
    assert "clock_gettime" not in called(found)
    assert found["lstm_profile"] == "D"


# --- the command


def test_a_bench_distinguishes_operators(lstm: Path) -> None:
    result = invoke("bench", lstm, "--profile", "--steps", 200, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [p["backend"] for p in found["profiles"]] == ["native", "onnxruntime"]
    for profile in found["profiles"]:
        operators = profile["operators"]
        assert profile["steps"] == 200
        assert sum(o["share"] for o in operators) == pytest.approx(1)
        assert sum(o["us"] for o in operators) == pytest.approx(profile["us"])
        assert {o["calls"] for o in operators} == {1}
        assert ("rnn.l0", "LSTM") in {(o["layer"], o["type"]) for o in operators}
        assert "head" in {o["layer"] for o in operators}
    native, onnxruntime = found["profiles"]
    assert 0 < native["clock"] < 10
    assert onnxruntime["clock"] is None
    assert found["skipped"] == []


def test_a_table_for_people(lstm: Path) -> None:
    result = invoke("bench", lstm, "--profile", "--steps", 20, "--backend", "native")
    assert result.exit_code == 0, result.output
    assert "native fp32: " in result.stdout
    assert re.search(r"rnn\.l0 +LSTM +1 +[\d.]+ +[\d.]+%", result.stdout)
    assert "onnxruntime" not in result.stdout


def test_what_a_profile_refuses(lstm: Path, tmp_path: Path) -> None:
    message = refused(invoke("bench", lstm, "--profile", "--backend", "torchscript"))
    assert message == "torchscript does not tell operators apart: profile native or onnxruntime."
    result = invoke("bench", lstm, "--profile", "--plot", tmp_path / "p.png")
    assert result.exit_code == 2
    assert "--profile draws no picture: leave --plot out." in result.output


def test_sources_of_before(tmp_path: Path) -> None:
    """Those of 0.1.0 have no clock."""
    kept = Path(__file__).parent.parent / "data/format1/lstm.rnnx"
    bundle = trusted(Path(shutil.copytree(kept, tmp_path / "lstm.rnnx")))
    result = invoke("bench", bundle, "--profile", "--steps", 20, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [p["backend"] for p in found["profiles"]] == ["onnxruntime"]
    assert [s["reason"] for s in found["skipped"]] == [
        "its C sources were written before they had a profile: export the bundle again."
    ]
