"""The folder of C as others take it: a subproject of CMake, an installed package, and a part of board builds."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rnn_export.runtime.build.c_compiler import FLAGS

from .models import Written
from .needs import need
from .quality import lay_out, run

Get = Callable[[str, str], Written]


def laid_out(its: Written, folder: Path) -> Path:
    folder.mkdir()
    lay_out(its.files, folder)
    return folder


@pytest.fixture
def lstm(written: Get, tmp_path: Path) -> Path:
    """The folder of an LSTM's sources."""
    return laid_out(written("lstm", "fp32"), tmp_path / "lstm")


def user_of(its: Written, folder: Path, cmake: str) -> Path:
    """A program of somebody else's, with a CMakeLists.txt of its own."""
    folder.mkdir()
    start = f"{its.name}_init(&state{', 0' if its.weights is not None else ''})"
    text = f'#include "{its.name}.h"\nint main(void) {{ static {its.name}_state state; {start}; return 0; }}\n'
    (folder / "user.c").write_text(text)
    (folder / "CMakeLists.txt").write_text(cmake)
    return folder


def configure(folder: Path, *options: str) -> str:
    return run(["cmake", "-S", str(folder), "-B", str(folder / "out"), "-Werror=dev", *options], folder)


def compiled_with(said: str, source: str) -> list[str]:
    """The command of a verbose build that compiles `source`."""
    (line,) = {line for line in said.splitlines() if line.endswith(source) and " -c " in line}
    return line.split()


# --- CMake

SUBPROJECT = """
cmake_minimum_required(VERSION 3.13)
project(user C)
set(march of-the-user)
add_subdirectory(${MODEL} model)
add_library(user STATIC user.c)
target_link_libraries(user PRIVATE rnn::lstm)
message(STATUS "build type=${CMAKE_BUILD_TYPE}.")
"""


def test_a_subproject_builds_its_library_and_nothing_else(written: Get, lstm: Path, tmp_path: Path) -> None:
    need("cmake", "make", "gcc")
    user = user_of(written("lstm", "fp32"), tmp_path / "user", SUBPROJECT)
    said = configure(user, f"-DMODEL={lstm}")
    assert "-- build type=.\n" in said
    said = run(["cmake", "--build", str(user / "out"), "--verbose"], user)
    assert {path.name for path in (user / "out").rglob("*") if path.suffix == ".a"} == {"liblstm.a", "libuser.a"}
    assert not [path for path in (user / "out").rglob("lstm_*") if path.is_file()]
    assert {*FLAGS, "-std=gnu99"} <= set(compiled_with(said, "lstm.c"))
    assert "-march=" not in said
    ours = compiled_with(said, "user.c")
    assert [word for word in ours if word.startswith(("-O", "-std", "-f", "-D"))] == []
    assert f"-I{lstm}" in ours


ARM = """
set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR arm)
set(CMAKE_C_COMPILER arm-none-eabi-gcc)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
set(CMAKE_C_FLAGS_INIT "-mcpu=cortex-m4 -mthumb -mfloat-abi=hard -mfpu=fpv4-sp-d16")
"""


@pytest.mark.parametrize("alone", [False, True], ids=["subproject", "alone"])
def test_a_bare_machine(alone: bool, written: Get, lstm: Path, tmp_path: Path) -> None:
    """By a toolchain file: no program, no -march of this machine, and no -fPIC, with which no board starts."""
    need("cmake", "make", "arm-none-eabi-gcc")
    (tmp_path / "arm.cmake").write_text(ARM)
    user, model = lstm, []
    if not alone:
        user, model = user_of(written("lstm", "fp32"), tmp_path / "user", SUBPROJECT), [f"-DMODEL={lstm}"]
    configure(user, *model, f"-DCMAKE_TOOLCHAIN_FILE={tmp_path / 'arm.cmake'}")
    said = run(["cmake", "--build", str(user / "out"), "--verbose"], user)
    words = compiled_with(said, "lstm.c")
    assert "-mcpu=cortex-m4" in words
    assert not [word for word in words if word.startswith(("-fPIC", "-march"))]
    assert not [path for path in (user / "out").rglob("lstm_*") if path.is_file()]


INSTALLED = """
cmake_minimum_required(VERSION 3.13)
project(user C)
find_package(NAME VERSION REQUIRED)
add_executable(user user.c)
target_link_libraries(user PRIVATE rnn::NAME)
"""


@pytest.mark.parametrize("model", ["lstm", "large"])
def test_an_installed_library_is_found(model: str, written: Get, tmp_path: Path) -> None:
    need("cmake", "make", "gcc")
    its = written(model, "fp32")
    sources, place = laid_out(its, tmp_path / "sources"), tmp_path / "place"
    configure(sources, f"-DCMAKE_INSTALL_PREFIX={place}", "-DCMAKE_INSTALL_LIBDIR=lib")
    run(["cmake", "--build", str(sources / "out"), "--target", "install"], sources)
    files = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    found = {f"include/{model}.h", f"include/{model}.hpp", f"lib/lib{model}.a"}
    found |= {f"share/{model}/{model}.bin"} if its.weights is not None else set()
    config = f"lib/cmake/{model}/{model}Config"
    assert files == found | {f"{config}.cmake", f"{config}Version.cmake", f"{config}-release.cmake"}
    sources.rename(tmp_path / "gone")
    version = re.search(r"^project\(\w+ VERSION (\S+)", its.files["CMakeLists.txt"].decode(), re.MULTILINE)
    assert version
    text = INSTALLED.replace("NAME", model).replace("VERSION R", f"{version[1]} R")
    user = user_of(its, tmp_path / "user", text)
    configure(user, f"-DCMAKE_PREFIX_PATH={place}")
    run(["cmake", "--build", str(user / "out")], user)
    run([str(user / "out/user")], user)
    if its.weights is not None:
        return
    (user / "CMakeLists.txt").write_text(text.replace(version[1], "99.0"))
    again = ["cmake", "-S", ".", "-B", "other", f"-DCMAKE_PREFIX_PATH={place}"]
    done = subprocess.run(again, cwd=user, capture_output=True, text=True, check=False)
    assert done.returncode
    assert 'compatible with requested version "99.0"' in " ".join(done.stderr.split())


# --- boards

# What these builds have of their own: a component of ESP-IDF is read by a script first, which knows no project and ends
# it where it registers; then by its project, where it goes on.
ESP_SCRIPT = """
macro(idf_component_register)
  message(STATUS "registers ${ARGV}")
  return()
endmacro()
set(ESP_PLATFORM 1)
include(${MODEL}/CMakeLists.txt)
"""
ESP = """
cmake_minimum_required(VERSION 3.16)
project(firmware C ASM)
set(ESP_PLATFORM 1)
add_compile_definitions(ESP_PLATFORM)
function(idf_component_register)
  cmake_parse_arguments(its "" "" "SRCS;INCLUDE_DIRS" ${ARGN})
  set(COMPONENT_LIB component PARENT_SCOPE)
  add_library(component STATIC ${its_SRCS})
  target_include_directories(component PUBLIC ${its_INCLUDE_DIRS})
endfunction()
add_subdirectory(${MODEL} model)
add_executable(firmware user.c)
target_link_libraries(firmware PRIVATE component)
"""
ZEPHYR = """
cmake_minimum_required(VERSION 3.20)
project(firmware C ASM)
add_compile_definitions(__ZEPHYR__)
macro(zephyr_library_named name)
  set(library ${name})
  add_library(${name} STATIC)
endmacro()
macro(zephyr_library_sources)
  target_sources(${library} PRIVATE ${ARGN})
endmacro()
macro(zephyr_library_compile_options)
  target_compile_options(${library} PRIVATE ${ARGN})
endmacro()
macro(zephyr_include_directories)
  include_directories(${ARGN})
endmacro()
add_subdirectory(${MODEL}/zephyr off)
set(CONFIG_RNN_UPPER y)
add_subdirectory(${MODEL}/zephyr on)
add_executable(firmware user.c)
target_include_directories(firmware PRIVATE ${MODEL})
target_link_libraries(firmware PRIVATE rnn_NAME)
"""


@pytest.mark.parametrize("model", ["lstm", "large"])
@pytest.mark.parametrize(("build", "its_library"), [(ESP, "libcomponent.a"), (ZEPHYR, "librnn_{}.a")],
                         ids=["esp-idf", "zephyr"])  # fmt: skip
def test_builds_of_boards_read_it(build: str, its_library: str, model: str, written: Get, tmp_path: Path) -> None:
    """With stand-ins for their own functions: neither of them can be had here. Large weights are in the program."""
    need("cmake", "make", "gcc")
    its = written(model, "fp32")
    folder = laid_out(its, tmp_path / model)
    text = build.replace("RNN_UPPER", f"RNN_{model.upper()}").replace("rnn_NAME", f"rnn_{model}")
    user = user_of(its, tmp_path / "user", text)
    (user / "user.c").write_text(board_program(its))
    configure(user, f"-DMODEL={folder}")
    said = run(["cmake", "--build", str(user / "out"), "--verbose"], user)
    assert set(FLAGS) <= set(compiled_with(said, f"{model}.c"))
    assert {path.name for path in (user / "out").rglob("*.a")} == {its_library.format(model)}
    (folder / f"{model}.bin").unlink(missing_ok=True)
    run([str(user / "out/firmware")], user)


def board_program(its: Written) -> str:
    """Ends with 0 where the weights are whole."""
    n, whole = its.name, "0"
    if its.weights is not None:
        whole = f"{n}_check({n}_weights, {n.upper()}_WEIGHTS_BYTES)"
    start = f"{n}_init(&state{f', {n}_weights' if its.weights is not None else ''})"
    return f'#include "{n}.h"\nstatic {n}_state state;\nint main(void) {{ {start}; return {whole}; }}\n'


@pytest.mark.parametrize(("model", "sources"), [("lstm", "lstm.c"), ("large", "large.c;large_weights.S")])
def test_esp_idf_reads_it_in_a_script(model: str, sources: str, written: Get, tmp_path: Path) -> None:
    need("cmake")
    folder = laid_out(written(model, "fp32"), tmp_path / model)
    (tmp_path / "requirements.cmake").write_text(ESP_SCRIPT)
    said = run(["cmake", f"-DMODEL={folder}", "-P", "requirements.cmake"], tmp_path)
    assert said == f"-- registers SRCS;{sources};INCLUDE_DIRS;.\n"


@pytest.mark.parametrize("model", ["lstm", "large"])
def test_arduino_compiles_all_of_the_folder(model: str, written: Get, tmp_path: Path) -> None:
    """Its flat layout: every source that lies there, with a main of Arduino's own; folders are left alone."""
    need("g++", "gcc")
    its = written(model, "fp32")
    folder = laid_out(its, tmp_path / model)
    (folder / "sketch.cpp").write_text(board_program(its))
    sources = sorted(path.name for path in folder.iterdir() if path.suffix in (".c", ".cpp", ".S"))
    assert sources == [
        f"{model}.c", *[f"{model}_weights.S"] * (model == "large"), "main.c", "selftest.c", "sketch.cpp",
    ]  # fmt: skip
    flags = ["-Os", "-ffunction-sections", "-fdata-sections", "-DARDUINO=10819", f"-I{folder}"]
    elsewhere = tmp_path / "build"
    elsewhere.mkdir()
    for source in sources:
        run(["g++" if source.endswith("cpp") else "gcc", *flags, "-c", str(folder / source)], elsewhere)
    run(["g++", *(f"{Path(source).stem}.o" for source in sources), "-lm", "-o", "sketch"], elsewhere)
    run(["./sketch"], elsewhere)
    properties = dict(line.split("=", 1) for line in (folder / "library.properties").read_text().splitlines())
    # What the specification of Arduino's libraries asks for.
    needed = {"name", "version", "author", "maintainer", "sentence", "paragraph", "category", "url", "architectures"}
    assert set(properties) == needed | {"includes"}
    assert re.fullmatch(r"[A-Za-z0-9][\w .-]{0,62}", properties["name"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", properties["version"])
    assert (folder / properties["includes"]).is_file()


@pytest.mark.parametrize("model", ["lstm", "large"])
def test_what_boards_read_is_well_formed(model: str, written: Get) -> None:
    """`module.yml` and `idf_component.yml` are so flat that they need no reader of YAML."""
    files = {name: data.decode() for name, data in written(model, "fp32").files.items() if not name.endswith(".bin")}
    assert files["zephyr/module.yml"] == f"name: rnn_{model}\nbuild:\n  cmake: zephyr\n  kconfig: zephyr/Kconfig\n"
    assert re.fullmatch(r'version: "\d+\.\d+\.\d+"\ndescription: "[^"\n]+"\n', files["idf_component.yml"])
    symbol, kind, *_ = files["zephyr/Kconfig"].splitlines()
    assert symbol == f"config RNN_{model.upper()}"
    assert kind.startswith('\tbool "')
    assert f"if(CONFIG_RNN_{model.upper()})" in files["zephyr/CMakeLists.txt"]
