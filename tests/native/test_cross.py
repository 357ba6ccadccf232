import json
import re
import subprocess
import tempfile
from dataclasses import replace

import numpy as np
import pytest

from rnn_export.errors import ParityError
from rnn_export.runtime.backends.native.record import Record, sources_sha256
from rnn_export.runtime.build.native import compilers as compilers
from rnn_export.runtime.build.native.cross import CrossBuild, cross_build
from rnn_export.runtime.build.native.machines import MACHINES, find_machine

from .building import LINUX, build, changed
from .needs import need
from .quality import called, given, symbols, written
from .toys import OUTPUTS, SPEC, STEPS, recorded, toy

BARE = ["cortex-m3", "cortex-m4", "cortex-m7"]
X = b"golden_x + i * TOY_X_SIZE,"
ELF = {"aarch64": 183, "arm": 40, "riscv64": 243}
STATE = 8 * 4

every_place = pytest.mark.parametrize("separate", [False, True], ids=["inside", "apart"])


@every_place
@pytest.mark.parametrize("triple", LINUX)
def test_linux(triple, separate):
    files = toy(separate=separate)
    done = build(triple, files)
    library, record = done.files[f"build/{triple}/native.so"], done.files[f"build/{triple}/build.json"]
    assert len(done.files) == 2
    assert library[:4] == b"\x7fELF"
    assert int.from_bytes(library[18:20], "little") == ELF[triple.split("-")[0]]
    assert Record.from_file("build.json", record) == done.record
    assert (done.record.triple, done.record.python, done.record.numpy) == (triple, None, None)
    assert done.record.sha256 == sources_sha256(files)
    assert done.selftest.passed
    assert done.selftest.ran == MACHINES[triple].emulator
    assert re.fullmatch(r"y: largest error \d\.\de-0[5-9]\nh: largest error \d\.\de-0[5-9]\nPASS", shown(done))
    assert (done.selftest.flash, done.selftest.ram, done.selftest.stack) == (None, None, None)


def shown(done: CrossBuild) -> str:
    return "\n".join(done.selftest.lines)


DRIVER = """
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv)
{
    void *library = dlopen(argv[1], RTLD_NOW), *state;
    float x[4], y[3];
    size_t (*bytes)(void);
    void (*init)(void *, const void *), (*step)(void *, const void *const *, void *const *);
    const void *in[] = {x};
    void *out[] = {y};
    if (argc < 2 || !library)
        return puts(dlerror()), 1;
    *(void **)&bytes = dlsym(library, "rnn_state_bytes");
    *(void **)&init = dlsym(library, "rnn_init");
    *(void **)&step = dlsym(library, "rnn_step");
    state = malloc(bytes());
    init(state, NULL);
    while (fread(x, sizeof x, 1, stdin)) {
        step(state, in, out);
        fwrite(y, sizeof y, 1, stdout);
    }
    return 0;
}
"""


def test_the_library_of_linux_is_what_a_device_loads(tmp_path):
    """The self-test is a program of its own; this opens native.so itself, as ctypes does, and steps it."""
    done = build("aarch64-linux-gnu")
    (tmp_path / "native.so").write_bytes(done.files["build/aarch64-linux-gnu/native.so"])
    (tmp_path / "driver.c").write_text(DRIVER)
    subprocess.run(["aarch64-linux-gnu-gcc", "driver.c", "-o", "driver", "-ldl"], cwd=tmp_path, check=True)
    x, y, _ = recorded()
    command = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "./driver", "./native.so"]
    ran = subprocess.run(command, cwd=tmp_path, input=x.tobytes(), capture_output=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    np.testing.assert_allclose(np.frombuffer(ran.stdout, np.float32).reshape(STEPS, OUTPUTS), y, atol=1e-5)


@every_place
@pytest.mark.parametrize("triple", BARE)
def test_cortex_m(triple, separate, tmp_path):
    done = build(triple, toy(separate=separate))
    assert set(done.files) == {f"build/{triple}/libtoy.a", f"build/{triple}/build.json"}
    proof = done.selftest
    assert proof.ran == f"qemu-system-arm ({MACHINES[triple].board.name})"
    assert re.fullmatch(r"y: largest error \d\.\de-0[5-9]\nh: largest error \d\.\de-0[5-9]\nPASS", shown(done))
    weights, pointer = 120 * 4, 4
    assert weights < proof.flash < weights + 4000
    # Scratch is h[8]; nothing but state and stack is written to.
    assert 32 <= proof.stack < 256
    assert proof.ram == STATE + separate * pointer + proof.stack
    facts = json.loads(done.files[f"build/{triple}/build.json"])
    assert {k: facts[k] for k in ("flash", "ram", "stack")} == {
        "flash": proof.flash,
        "ram": proof.ram,
        "stack": proof.stack,
    }
    assert f"-mcpu={triple}" in facts["flags"]
    (tmp_path / "libtoy.a").write_bytes(done.files[f"build/{triple}/libtoy.a"])
    found = symbols(tmp_path / "libtoy.a", "arm-none-eabi-nm")
    extra = {"toy_check", "toy_weights"} if separate else set()
    assert given(found) == {"toy_init", "toy_step", "toy_run"} | extra
    assert written(found) == set()
    assert not {"malloc", "free", "expf"} & called(found)


def test_the_stack_of_a_step_is_what_it_takes():
    small = build("cortex-m4").selftest
    big = build(
        "cortex-m4",
        changed("float h[8];", "float h[8]; volatile char room[4000]; for (int i = 0; i < 4000; i++) room[i] = 1;"),
    ).selftest
    assert 4000 <= big.stack - small.stack < 4100
    assert big.ram - big.stack == small.ram - small.stack


def test_the_stack_of_a_step_with_more_arguments_than_registers():
    more = "const float *x, const float *x2, const float *x3, const float *x4, float *y"
    files = {name: data.replace(b"const float *x, float *y", more.encode()) for name, data in toy().items()}
    files["toy.c"] = files["toy.c"].replace(b"toy_step(state, x, y)", b"toy_step(state, x, x, x, x, y)")
    files["toy.c"] = files["toy.c"].replace(b"y[i] = sum;", b"y[i] = sum + x2[0] + x3[1] - x4[0] - x4[1];")
    call = b"toy_step(&state, golden_x + i * TOY_X_SIZE, y)"
    assert call in files["selftest.c"]
    files["selftest.c"] = files["selftest.c"].replace(call, call.replace(b", y", b", X, X, X, y").replace(b"X,", X))
    spec = replace(SPEC, inputs=tuple(replace(SPEC.inputs[0], name=name) for name in ("x", "x2", "x3", "x4")))
    need("arm-none-eabi-gcc", "qemu-system-arm")
    proof = cross_build(files, "toy", spec, "cortex-m4").selftest
    assert proof.passed
    assert 32 <= proof.stack < 256


def test_what_a_step_writes_to_counts_as_ram():
    small = build("cortex-m4").selftest
    files = changed("float h[8];", "static volatile int steps, more[99] = {1}; steps += more[3]; float h[8];")
    big = build("cortex-m4", files).selftest
    assert big.ram - big.stack == small.ram - small.stack + 400
    assert 396 <= big.flash - small.flash < 500


def test_a_library_function_counts_as_flash():
    small = build("cortex-m4").selftest
    files = changed("y[i] = sum;", "y[i] = sum + (sum > 1e9f ? expf(sum) : 0.0f);")
    files["toy.c"] = b"#include <math.h>\n" + files["toy.c"]
    assert build("cortex-m4", files).selftest.flash > small.flash + 300


def test_a_build_is_the_same_each_time():
    for triple in ("aarch64-linux-gnu", "cortex-m4"):
        assert build(triple).files == build(triple).files


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    build("cortex-m4", toy(separate=True))
    build("aarch64-linux-gnu")
    with pytest.raises(ParityError):
        build("cortex-m4", toy(wrong=True))
    assert list(tmp_path.iterdir()) == []


def test_a_cpu_by_name():
    done = build("aarch64-linux-gnu", cpu="cortex-a76")
    assert "-mcpu=cortex-a76" in done.record.flags
    assert "asimddp" in done.record.features
    assert "asimddp" not in build("aarch64-linux-gnu").record.features
    assert done.selftest.passed


def test_zig_names_a_cpu_in_its_own_way():
    compiler = compilers.CrossCompiler(("zig", "cc", "-target", "aarch64-linux-gnu"), "", MACHINES["aarch64-linux-gnu"])
    assert compiler.static.command == ("zig", "cc", "-target", "aarch64-linux-musl")
    need("zig")
    found = compilers.find_cross(find_machine("aarch64-linux-musl", "cortex-a76"))
    assert found.flags == ("-target", "aarch64-linux-musl", "-mcpu=cortex_a76")


@pytest.mark.parametrize(("cpu", "abi"), [("cortex-m33", "hard"), ("cortex-m0plus", "soft")])
def test_any_cortex_m_is_compiled_but_not_run(cpu, abi):
    need("arm-none-eabi-gcc")
    done = cross_build(toy(), "toy", SPEC, "arm-none-eabi", cpu)
    assert set(done.files) == {f"build/{cpu}/libtoy.a", f"build/{cpu}/build.json"}
    assert f"-mfloat-abi={abi}" in done.record.flags
    assert not done.selftest.passed
    assert done.selftest.reason == (
        f"not run: there is no board with {cpu} among those known here. Run selftest.c on yours."
    )
    assert (done.selftest.ram, done.selftest.stack) == (None, None)
    assert done.selftest.flash > 480


def test_any_cortex_m_that_has_a_row_is_run():
    assert find_machine("arm-none-eabi", "cortex-m7") == MACHINES["cortex-m7"]
