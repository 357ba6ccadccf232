"""The header of C++17 around a step: two streams do what the functions in C do, by both compilers and every warning."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rnn_export.bundle import open_bundle
from rnn_export.runtime.build.c_names import identifiers

from ..zoo import store  # noqa: TID252
from .models import Written
from .needs import need
from .quality import CPP, STRICT, lay_out, run

Get = Callable[[str, str], Written]
Compiled = Callable[[str, str, str], Path]

WARN = ["-pedantic-errors", "-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-Wold-style-cast",
        "-Werror"]  # fmt: skip
SANITIZE = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
PROGRAM = Path(__file__).with_name("two_streams.cpp").read_text()


def program(its: Written, folder: Path) -> str:
    """The file of `two_streams.cpp` for a model, whose weights stand in the program where they are a file."""
    (x, y), weights = identifiers([its.spec.inputs[0].name, its.spec.outputs[0].name]), its.weights is not None
    text = PROGRAM.replace("NAME", its.name).replace("INPUT", x).replace("OUTPUT", y)
    text = text.replace(" START", "(bytes)" if weights else "").replace(" WEIGHTS", ", bytes" if weights else "")
    if weights:
        loaded = (
            "alignas(64) static unsigned char bytes[model::weights_bytes];\n"
            "static const bool loaded = [] {\n"
            f'    std::FILE *file = std::fopen("{its.name}.bin", "rb");\n'
            "    return std::fread(bytes, sizeof bytes, 1, file) + static_cast<unsigned>(std::fclose(file)) == 1\n"
            "        && model::check(bytes, sizeof bytes) == 0;\n}();\n"
        )
        text = text.replace("int main()\n{", f"{loaded}\nint main()\n{{\n    if (!loaded)\n        return 2;")
    (folder / "two_streams.cpp").write_text(text)
    return "two_streams.cpp"


@pytest.mark.parametrize(
    ("model", "compiler", "standard"),
    [("lstm", "gcc", "17"), ("lstm", "clang", "17"), ("lstm", "clang", "20"), ("large", "gcc", "20")],
)
def test_two_streams(
    model: str, compiler: str, standard: str, written: Get, compiled: Compiled, tmp_path: Path
) -> None:
    need(CPP[compiler], compiler)
    its, step = written(model, "fp32"), compiled(model, "fp32", compiler) / f"{model}.o"
    lay_out(its.files, tmp_path)
    flags = [f"-std=c++{standard}", "-fno-exceptions", "-fno-rtti", *WARN, *SANITIZE]
    run([CPP[compiler], *flags, program(its, tmp_path), str(step), "-lm", "-o", "two"], tmp_path)
    assert run(["./two"], tmp_path) == "PASS\n"


def test_a_frame_of_another_size_does_not_compile(written: Get, tmp_path: Path) -> None:
    need("g++")
    its = written("lstm", "fp32")
    lay_out(its.files, tmp_path)
    (tmp_path / "wrong.cpp").write_text(
        '#include "lstm.hpp"\n#include <array>\n'
        "void f(rnn::lstm::stream &s, std::array<float, 3> x, rnn::lstm::view<float, 1> y) { s.step(x, y); }\n"
    )
    with pytest.raises(AssertionError, match=r"(could not|cannot) convert"):
        run(["g++", "-std=c++17", "-fsyntax-only", "wrong.cpp"], tmp_path)


@pytest.mark.parametrize("model", ["counter", "strided-valid-then-gru", "dual-path"])
def test_every_kind_of_model_has_it(model: str, written: Get, tmp_path: Path) -> None:
    """Other types, a delay and its end, several outputs: the header compiles alone, and twice."""
    need("g++", "clang++")
    its = written(model, "fp32")
    lay_out(its.files, tmp_path)
    (tmp_path / "user.cpp").write_text(
        f'#include "{its.name}.hpp"\n#include "{its.name}.hpp"\n'
        f"int main() {{ rnn::{its.name}::stream s; s.reset(); }}\n"
    )
    for compiler in CPP.values():
        run([compiler, "-std=c++17", *WARN, "-fsyntax-only", "user.cpp"], tmp_path)


ENDS = """
#include "NAME.hpp"
#include <cstdio>
#include <cstring>

namespace model = rnn::NAME;

int main()
{
    model::stream ours;
    NAME_state theirs;
    NAME_init(&theirs);
    const std::size_t frames = 9, late = model::delay, all = model::length_OUTPUT(frames);
    int bad = all != NAME_length_OUTPUT(frames) || !model::tail;
    for (std::size_t step = 0; step < late + all; step++) {
        float x[model::INPUT_size], y[model::OUTPUT_size], z[model::OUTPUT_size];
        for (float &value : x)
            value = static_cast<float>(step * 3 % 7) - 3.0f;
        if (step == frames) {
            ours.finish(0);
            NAME_finish(&theirs, 0);
        }
        ours.step(x, y);
        NAME_step(&theirs, x, z);
        bad += std::memcmp(y, z, sizeof y) != 0;
    }
    std::printf("%zu after %zu\\n", late + all - frames, frames);
    return bad;
}
"""


def test_the_end_of_a_sequence(tmp_path: Path) -> None:
    """A model that looks ahead: the frames that come after the last one."""
    need("g++", "gcc")
    its = Written.of(open_bundle(store.bundle("look-ahead")), "fp32")
    lay_out(its.files, tmp_path)
    x, y = identifiers([its.spec.inputs[0].name, its.spec.outputs[0].name])
    (tmp_path / "ends.cpp").write_text(ENDS.replace("NAME", its.name).replace("INPUT", x).replace("OUTPUT", y))
    run(["gcc", *STRICT, "-c", f"{its.name}.c"], tmp_path)
    run(["g++", "-std=c++17", *WARN, *SANITIZE, "ends.cpp", f"{its.name}.o", "-lm", "-o", "ends"], tmp_path)
    assert run(["./ends"], tmp_path) == "2 after 9\n"


def test_a_bare_machine_needs_nothing_of_cpp(written: Get, tmp_path: Path) -> None:
    """C++'s own library may be missing."""
    need("arm-none-eabi-g++")
    its = written("lstm", "fp32")
    lay_out(its.files, tmp_path)
    (tmp_path / "user.cpp").write_text(
        '#include "lstm.hpp"\nusing namespace rnn::lstm;\n'
        "static stream one, two;\nfloat x[x_size];\n"
        "void both(float *y) { one.step(x, view<float, 1>::at(y)); }\n"
        "void other(float *y) { two.step(view<const float, x_size>(x), view<float, 1>::at(y)); }\n"
    )
    flags = ["-std=c++17", "-nostdinc++", "-fno-exceptions", "-fno-rtti", "-mcpu=cortex-m4", "-mthumb", *WARN]
    run(["arm-none-eabi-g++", *flags, "-c", "user.cpp"], tmp_path)
