"""Compilers, CPU features, and the files and errors of compiling a step in C."""

import json
import os
import platform
import re
import shutil
import sysconfig
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rnn_export.cli import probes
from rnn_export.errors import BackendUnavailable, BuildError
from rnn_export.runtime.backends.native import cpu
from rnn_export.runtime.backends.native.cpu import Cpu, features, host_triple, this_cpu
from rnn_export.runtime.backends.native.record import Record, sources_sha256
from rnn_export.runtime.build.c_compiler import Compiler
from rnn_export.runtime.build.c_names import RESERVED, identifier, identifiers, source_name
from rnn_export.runtime.build.glue import glue
from rnn_export.runtime.build.native import compilation as compiling
from rnn_export.runtime.build.native.compilation import compile_native, python_headers
from rnn_export.runtime.build.native.compilers import find_compiler

from ..messages import raises  # noqa: TID252
from ..runtime.graphs import CHUNKED, SUM, TOKENS, TOKENS_TIMED, spec, state, tensor  # noqa: TID252
from ..runtime.native_toys import by_hand, sources  # noqa: TID252

COMPILERS = [name for name in ("gcc", "clang", "zig") if shutil.which(name)]
FILES = by_hand("sum", SUM)
PLACE = f"build/{host_triple()}"


@pytest.fixture
def compiler() -> Compiler:
    try:
        return find_compiler()
    except BackendUnavailable as error:
        pytest.skip(str(error))


# --- names


NAMES = {
    "rnn.l0.h": "rnn_l0_h", "2x": "_2x", "a b-c": "a_b_c", "a..b__c": "a_b_c", "größe": "gr_e", "int": "the_int",
    "class": "the_class", "state": "the_state", "rnn": "the_rnn", "": "nameless", "...": "nameless", "Int": "Int",
}  # fmt: skip


def test_identifiers():
    assert {text: identifier(text) for text in NAMES} == NAMES
    for text in ("x", "9", "ß", "void", "weights", "main", " ", "_", "a" * 300):
        name = identifier(text)
        assert re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name)
        assert name not in RESERVED
        assert identifier(name) == name
    # Of a header of the library there are no sources.
    given = {text: source_name(text) for text in ("vad", "time", "Signal", "int")}
    assert given == {"vad": "vad", "time": "the_time", "Signal": "the_Signal", "int": "the_int"}


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (["a.b", "a-b", "a b"], ["a_b", "a_b_2", "a_b_3"]),
        (["x", "X"], ["x", "X_2"]),
        (["a_2", "a", "a."], ["a_2", "a", "a_"]),
        (["a", "a", "a_2"], ["a", "a_2", "a_2_2"]),
        (["a.", "a-", ""], ["a_", "a_2", "nameless"]),
    ],
)
def test_identifiers_are_distinct(texts, wanted):
    assert identifiers(texts) == wanted


# --- compilers


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def path(tmp_path, monkeypatch) -> Path:
    """A folder that is all of PATH, and no CC and no ziglang."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    return tmp_path


def test_the_first_compiler_there_is(path):
    for name, wanted in (("zig", "zig cc, zig 1"), ("clang", "clang 1"), ("gcc", "gcc 1")):
        script(path / name, f"echo {name} 1; echo more")
        assert find_compiler().title == wanted
    assert find_compiler("zig").command == (str(path / "zig"), "cc")
    assert find_compiler("clang").command == (str(path / "clang"),)


def test_a_compiler_that_does_not_run_is_passed_over(path):
    script(path / "gcc", "exit 7")
    how = "exit status 7.), clang is not found, zig is not found: sudo apt install gcc, or pip install ziglang"
    with raises("compiler-missing", "gcc does not run (", how):
        find_compiler()
    script(path / "clang", "echo clang 1")
    assert find_compiler().title == "clang 1"


def test_cc_goes_before_all(path, monkeypatch):
    script(path / "gcc", "echo gcc 1")
    script(path / "mine", 'echo "mine $1"')
    monkeypatch.setenv("CC", "mine --flag")
    assert find_compiler() == Compiler((str(path / "mine"), "--flag"), "mine --flag")
    assert find_compiler("gcc").title == "gcc 1"
    monkeypatch.setenv("CC", "none")
    with raises("compiler-unusable", "CC, 'none'", "set CC to a compiler, or unset it"):
        find_compiler()
    with raises("compiler-unusable", "the compiler asked for, 'tcc'", "name another one"):
        find_compiler("tcc")


def test_the_doctor_looks_at_cc(path, monkeypatch):
    assert [f.name for f in probes._compilers()] == ["gcc", "clang", "zig"]
    monkeypatch.setenv("CC", "none")
    first = next(probes._compilers())
    assert (first.name, first.state, first.detail) == ("CC", "broken", "CC, 'none', is not found")
    script(path / "none", "echo none 1")
    assert next(probes._compilers()).detail == "none 1; it goes before all others"


# --- what a CPU can do


def test_the_words_of_the_kernel(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text(
        "processor\t: 0\nmodel name\t: A CPU: fast\nflags\t\t: fpu avx2 fma\n\nprocessor\t: 1\nflags\t\t: x\n"
    )
    assert this_cpu(file) == Cpu("A CPU: fast", frozenset({"fpu", "avx2", "fma"}))
    file.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd0c\n")
    assert this_cpu(file).features == {"fp", "asimd", "asimddp"}
    assert this_cpu(file).model == f"{platform.machine()} part 0xd0c"
    file.write_text("processor\t: 0\nFeatures\t: fp\nCPU part\t: 0xd08\n\nHardware\t:\nModel\t\t: Raspberry Pi 4\n")
    assert this_cpu(file) == Cpu("Raspberry Pi 4", frozenset({"fp"}))
    assert this_cpu(tmp_path / "none") == Cpu(platform.machine(), frozenset())


def test_features_of_macros():
    assert features({"__x86_64__", "__AVX512F__", "__AVX512VNNI__", "__AVXVNNI__", "__FMA__", "__AES__"}) == [
        *("fma", "avx_vnni", "avx512f", "avx512_vnni"),
    ]
    assert features({"__aarch64__", "__ARM_FEATURE_BF16", "__ARM_FEATURE_DOTPROD", "__ARM_NEON"}) == ["asimddp", "bf16"]
    assert features({"__arm__", "__ARM_NEON", "__ARM_FEATURE_FMA"}) == ["neon", "vfpv4"]


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("x86_64-pc-linux-gnu", "x86_64-linux-gnu"),
        ("aarch64-unknown-linux-musl", "aarch64-linux-musl"),
        ("armv7l-unknown-linux-gnueabihf", "arm-linux-gnueabihf"),
        ("arm-linux-gnueabihf", "arm-linux-gnueabihf"),
        (None, f"{os.uname().machine}-linux-gnu"),
    ],
)
def test_the_triple_is_that_of_python(monkeypatch, said, wanted):
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: said)
    assert host_triple() == wanted


# --- compiling


@pytest.mark.parametrize("name", COMPILERS)
def test_every_compiler_that_is_here(name):
    made = compile_native(FILES, "sum", SUM.spec, find_compiler(name))
    assert set(made) == {f"{PLACE}/native.so", f"{PLACE}/build.json"}
    record = Record.from_file("build.json", made[f"{PLACE}/build.json"])
    assert (record.triple, record.compiler) == (host_triple(), find_compiler(name).title)
    assert record.sha256 == sources_sha256(FILES)
    assert set(record.features) <= this_cpu().features
    if python_headers():
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        assert (record.python, record.numpy) == (suffix, int(np.__version__.split(".")[0]))


def test_nothing_is_left_behind_and_the_same_sources_make_the_same_bytes(compiler, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    made = compile_native(FILES, "sum", SUM.spec, compiler)
    with pytest.raises(BuildError):
        compile_native({**FILES, "sum.c": b"?"}, "sum", SUM.spec, compiler)
    assert list(tmp_path.iterdir()) == []
    assert all(str(tmp_path).encode() not in data for data in made.values())
    assert compile_native(FILES, "sum", SUM.spec, compiler) == made


def record_of(compiler: Compiler, **options: object) -> dict:
    return json.loads(compile_native(FILES, "sum", SUM.spec, compiler, **options)[f"{PLACE}/build.json"])


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="levels are of x86-64")
def test_a_lower_level_for_more_cpus(compiler):
    record = record_of(compiler, march="x86-64-v3")
    assert "-march=x86-64-v3" in record["flags"]
    assert "avx2" in record["features"]
    assert not [word for word in record["features"] if word.startswith("avx512")]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the flags are of x86")
def test_what_the_kernel_hides_is_not_used(compiler, monkeypatch):
    shown = this_cpu()
    hidden = {word for word in ("avx512f", "avx_vnni", "fma") if word in shown.features}
    assert hidden
    monkeypatch.setattr(compiling, "this_cpu", lambda: shown._replace(features=shown.features - hidden))
    record = record_of(compiler)
    assert not hidden & set(record["features"])
    assert set(cpu.without(hidden)) <= set(record["flags"])


def test_what_does_not_compile(compiler):
    wrong = {**FILES, "sum.c": FILES["sum.c"].replace(b"memset", b"int i = unknown; memset")}
    for files, march, message in (
        (FILES, "x86-64-v9", ("compiler-flags-refused", "-march=x86-64-v9")),
        (FILES, "native -o x", ("march-malformed", "'native -o x'")),
        (wrong, "native", ("compiler-failed", "step/sum.c:", "error: ", "unknown")),
        ({"sum.h": FILES["sum.h"]}, "native", ("compiler-failed", "step/sum.c")),
    ):
        with raises(*message):
            compile_native(files, "sum", SUM.spec, compiler, march=march)
    with raises("compiler-not-started", "mine 1", "No such file"):
        compile_native(FILES, "sum", SUM.spec, Compiler(("/nowhere/cc",), "mine 1"))


CRASH = "*(volatile int *)8 = 1;"


@pytest.mark.parametrize("where", ["init", "step", "load"])
def test_code_that_crashes_ends_a_process_of_its_own(compiler, where):
    text = FILES["sum.c"].decode()
    text = {
        "init": text.replace("memset", f"{CRASH} memset", 1),
        "step": text.replace("(void)all;", f"(void)all; if (s->h[0] == 0) {CRASH}"),
        "load": f"{text}\n__attribute__((constructor)) static void starts(void) {{ {CRASH} }}",
    }[where]
    assert text != FILES["sum.c"].decode()
    with raises("first-run-failed", f"the step that {compiler.title} compiled (-O3 ", "SIGSEGV", "Nothing was written"):
        compile_native({**FILES, "sum.c": text.encode()}, "sum", SUM.spec, compiler)


def test_first_steps_have_the_weights_of_a_file(compiler):
    """Enough steps to move each window back, of one stream and of several."""
    body = "    const float *w = s->weights;\n    for (int i = 0; i < 3; i++) y[i] = s->h[i] += w[i] * x[i];\n"
    files = sources("sum", SUM.spec, body, macs=1, weights=np.ones(3, np.float32).tobytes())
    assert compile_native(files, "sum", SUM.spec, compiler)
    # Without them nothing can be stepped.
    assert compile_native({name: files[name] for name in ("sum.c", "sum.h")}, "sum", SUM.spec, compiler)
    late = files["sum.c"].replace(b"s->weights = weights;", b"s->weights = weights; s->h[0] = -7;")
    late = late.replace(b"(void)all;", b"(void)all; s->h[0] += 1; if (s->h[0] >= 123) " + CRASH.encode())
    with raises("first-run-failed", "SIGSEGV"):
        compile_native({**files, "sum.c": late}, "sum", SUM.spec, compiler)


def test_a_library_for_a_larger_cpu_is_not_stepped(compiler, monkeypatch):
    monkeypatch.setattr(compiling, "features", lambda macros: ["of another one"])
    text = FILES["sum.c"].replace(b"memset", f"{CRASH} memset".encode())
    assert compile_native({**FILES, "sum.c": text}, "sum", SUM.spec, compiler)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"inputs": (tensor("x", "batch", 4),)}, "sum_x_has_the_size_of_the_contract"),
        ({"states": (state("h", 2),)}, "h_has_the_size_of_the_contract"),
        ({"states": (state("h", 3, dtype="float64"),)}, "h_has_the_size_of_the_contract"),
        ({"states": (state("g", 3),)}, "g"),
    ],
)
def test_sources_of_another_contract_do_not_compile(compiler, changes, what):
    with raises("compiler-failed", "error: ", what):
        compile_native(FILES, "sum", replace(SUM.spec, **changes), compiler)


def test_names_that_meet_those_of_the_glue(compiler):
    odd = spec("odd", [tensor("state", "batch", 3)], [tensor("int", "batch", 3)], [state("weights", 3)])
    body = "    for (int i = 0; i < 3; i++) the_int[i] = s->the_weights[i] += the_state[i];\n"
    assert compile_native(sources("rnn_glue", odd, body), "rnn_glue", odd, compiler)


def test_the_glue_says_where_an_input_is_an_index():
    assert "case 0: return TOKENS_ID_ROWS;" in glue("tokens", TOKENS.spec)
    assert "TOKENS_TIMED_ID_SIZE == 1" in glue("tokens_timed", TOKENS_TIMED.spec)
    assert "CHUNKED_X_SIZE == 9" in glue("chunked", CHUNKED.spec)


def test_without_headers_there_is_no_extension(compiler, monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert python_headers() is None
    record = record_of(compiler)
    assert (record["python"], record["numpy"]) == (None, None)
    with raises("python-headers-missing", tmp_path):
        compile_native(FILES, "sum", SUM.spec, compiler, extension=True)


# --- the record


RECORD = Record("a-linux-gnu", "gcc 1", ("-O3",), ("fma",), None, None, "ab")


def test_a_record_comes_back():
    assert Record.from_file("b", RECORD.to_file()) == RECORD
    more = json.dumps({**json.loads(RECORD.to_file()), "flash": 3}).encode()
    assert Record.from_file("b", more) == RECORD
    malformed, fields = (b"", b"\xff"), (b"[]", b'{"triple": "a"}', b"null")
    for raw, found in [*((r, "malformed") for r in malformed), *((r, "field") for r in fields)]:
        with raises(f"build-record-{found}", "build/x/build.json"):
            Record.from_file("build/x/build.json", raw)


def test_the_digest_is_of_sources_and_weights_alone():
    files = {"n.c": b"c", "n.h": b"h", "n.bin": b"w"}
    digest = sources_sha256(files)
    assert sources_sha256({f"targets/c-fp32/{name}": data for name, data in reversed(files.items())}) == digest
    others = dict.fromkeys(["CMakeLists.txt", "parity.json", "golden.h", "main.c", "selftest.c"], b"x")
    assert sources_sha256({**files, **others}) == digest
    for name in files:
        assert sources_sha256({**files, name: b"?"}) != digest
    assert sources_sha256({"n.c": b"c", "n.h": b"h", "m.bin": b"w"}) != digest
