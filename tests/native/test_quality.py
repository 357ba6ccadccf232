import pytest

from .needs import need
from .quality import (
    FAST,
    MEMORY,
    SANITIZE,
    VALGRIND,
    build_and_run,
    called,
    compile_object,
    given,
    include_from_cpp,
    symbols,
    written,
)
from .toys import toy

every_compiler = pytest.mark.parametrize("compiler", ["gcc", "clang"])
every_place = pytest.mark.parametrize("separate", [False, True], ids=["inside", "apart"])
RUN = ["y: largest error", "h: largest error", "PASS"]


@every_compiler
@every_place
@pytest.mark.parametrize("flags", [FAST, ("-O0",), SANITIZE], ids=["fast", "plain", "sanitized"])
def test_self_test(compiler, separate, flags, tmp_path):
    need(compiler)
    lines = build_and_run(toy(separate=separate), "toy", compiler, flags, tmp_path)
    assert [line[: len(start)] for line, start in zip(lines, RUN, strict=True)] == RUN


@every_compiler
@every_place
def test_valgrind(compiler, separate, tmp_path):
    need(compiler, "valgrind")
    build_and_run(toy(separate=separate), "toy", compiler, ("-O1", "-g"), tmp_path, VALGRIND)


@every_compiler
@every_place
def test_cpp(compiler, separate, tmp_path):
    need(compiler)
    include_from_cpp(toy(separate=separate), "toy", compiler, tmp_path)


@every_compiler
@every_place
def test_symbols(compiler, separate, tmp_path):
    need(compiler)
    found = symbols(compile_object(toy(separate=separate), "toy", compiler, tmp_path))
    assert called(found) <= MEMORY
    assert written(found) == set()
    assert given(found) == {"toy_init", "toy_step", "toy_run"} | ({"toy_check"} if separate else set())


# --- the checks see what they are for


def spoiled(old: str, new: str) -> dict[str, bytes]:
    files = toy()
    text = files["toy.c"].decode()
    assert old in text
    return files | {"toy.c": text.replace(old, new, 1).encode()}


def test_a_warning_is_an_error(tmp_path):
    need("gcc")
    with pytest.raises(AssertionError, match="unused variable"):
        build_and_run(spoiled("float h[8];", "float h[8]; int spare;"), "toy", "gcc", FAST, tmp_path)


def test_a_self_test_that_fails(tmp_path):
    need("gcc")
    with pytest.raises(AssertionError, match=r"gave 1:\n(?s:.*)FAIL"):
        build_and_run(toy(wrong=True), "toy", "gcc", FAST, tmp_path)


@every_compiler
def test_the_sanitizers_see_a_read_outside(compiler, tmp_path):
    need(compiler)
    files = spoiled("w[4 * i + k] * x[k]", "w[4 * i + k] * x[k + 80]")
    with pytest.raises(AssertionError, match=r"AddressSanitizer|runtime error"):
        build_and_run(files, "toy", compiler, SANITIZE, tmp_path)


def test_valgrind_sees_what_is_not_initialized(tmp_path):
    need("gcc", "valgrind")
    files = spoiled("memset(state, 0, sizeof *state);", "(void)state;")
    with pytest.raises(AssertionError, match="uninitialised value"):
        build_and_run(files, "toy", "gcc", ("-O1", "-g"), tmp_path, VALGRIND)


def test_symbols_see_calls_and_globals(tmp_path):
    need("gcc")
    files = spoiled("float h[8];", "float h[8]; static int steps; if (++steps > 9) abort();")
    files["toy.c"] = b"#include <stdlib.h>\n" + files["toy.c"]
    found = symbols(compile_object(files, "toy", "gcc", tmp_path))
    assert called(found) - MEMORY == {"abort"}
    assert len(written(found)) == 1
