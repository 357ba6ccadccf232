"""The lane of each test: `full` for what the default run of scripts/test leaves out."""

from collections import Counter
from pathlib import Path
from typing import TypeVar

import pytest

R = TypeVar("R", pytest.TestReport, pytest.CollectReport)
# By pytest's -m, the lanes that together are all tests.
LANES = {"not full": "default", "full": "full"}
# What is of the full lane, as the start of a node id below tests/, and why.
FULL = {
    "attacks/test_c_sources": "compiles many sources",
    "attacks/test_fuzz": "thousands of files",
    "attacks/test_interrupts": "an interrupt at each instruction",
    "build/test_doctor.py::test_tensorrt_rtx": "dev-full",
    "build/test_doctor.py::test_what_the_tests": "dev-full",
    "examples/": "whole programs",
    "export/test_c_batched": "many sources under sanitizers",
    "export/test_c_indices.py::test_webassembly": "dev-full",
    "export/test_c_parts": "compiles large nets",
    "export/test_c_team": "compiles large nets",
    "export/test_special_values": "all operators as one step in C",
    "export/test_torch_targets": "each net of the zoo as three files of torch's",
    "from_onnx/test_command.py::test_litert_from_a_file_of_others": "dev-full",
    "models/test_cases.py::test_a_case_gives_what_its_row_says[around_loops": "nets that take seconds to lift",
    "native/": "other machines, emulators and checkers",
    "parity/test_coreml": "dev-full",
    "parity/test_executorch": "dev-full",
    "parity/test_litert": "dev-full",
    "parity/test_openvino": "dev-full",
    "parity/test_parity.py::test_webassembly": "dev-full",
    "properties/": "random architectures",
    "published/": "models of other packages",
    "runtime/test_backends": "dev-full",
    "runtime/test_coreml": "dev-full",
    "runtime/test_device.py::test_the_real_cuda_python": "dev-full",
    "runtime/test_executorch": "dev-full",
    "runtime/test_litert": "dev-full",
    "runtime/test_native_stepper": "threads that are waited for",
    "runtime/test_openvino": "dev-full",
    "runtime/test_recording.py::test_flac_and_ogg": "dev-full",
    "runtime/test_recording.py::test_sound_of_soundfile": "dev-full",
    "runtime/test_recording.py::test_wav_of_floats": "dev-full",
    "runtime/test_tensorrt_engines.py::test_the_real": "dev-full",
    "tensorrt/test_layers": "dev-full",
    "tensorrt/test_networks": "whole networks, layer by layer in numpy",
    "test_architecture.py::test_what_an_import_loads": "every package is imported, dev-full too",
    "test_bundle_kills": "a process killed at each point of writing",
    "test_cli.py::test_a_folder_named_as_a_library": "a process for each library",
    "test_cli_bench": "benches",
    "test_cli_engines.py::test_doctor_says_what_mends_it": "every compiler is asked",
    "test_faces": "a process for each order of imports",
    "test_leapp": "dev-full",
    "test_pages.py::test_an_export_says": "a program of the docs",
    "test_pages.py::test_the_quickstart_works": "a program of the docs",
    "test_pages.py::test_the_site": "dev-full",
    "test_pages.py::test_your_own_model": "programs of the docs",
    "test_pipelines": "whole pipelines in sound",
    "test_target_pages": "programs of the docs, many of them dev-full",
    "test_typing": "a type checker on an installed package",
    "triton/test_failover": "a server",
    "triton/test_python_model.py::test_a_repository_of_release_0_1_is_served": "a server",
    "triton/test_server": "a server",
    "web/": "dev-full",
}
# Tests of the default lane that may take more than LONG seconds, as the start of a node id, and why.
SLOW = {
    "attacks/test_stores": "commands, each of which loads torch",
    "attacks/test_trust": "builds by commands, each of which loads torch",
    "export/test_c_functions": "the first of a width compiles for the others",
    "export/test_c_narrow": "the first of a width compiles for the others",
    "export/test_scatter": "one export for several models",
    "models/test_caches_of_layers": "an export of two layers of attention to ONNX and C",
    "parity/test_fixtures": "an export of Silero",
    "runtime/test_finish": "the first waits for the export of its bundle",
    "runtime/test_pool_machine": "calls in any order, as hypothesis draws them",
    "test_packaging": "a wheel is built and installed",
    "test_pages": "programs of the docs",
}
LONG = 5
# Of a test that starts so, and of each statement of the cases of lifting, the default run has that many sets of
# parameters, the first; the full lane has the rest.
FIRST = {"models/": 2, "export/": 2, "parity/": 1, "runtime/test_native.py::test_ctypes": 4}
# Backends whose packages come with the extra dev-full.
FULL_BACKENDS = {"openvino", "litert", "executorch", "wasm"}
# What a skip for want of a package says, and the tests that the last default run skipped so.
WANTED = ("could not import", "pip install", "No module named")
WANTING = Path(__file__).parent.parent / ".cache/wanting"


def is_left_out(path: Path, root: Path, marks: str) -> bool:
    """True for a file without tests of the lane with these marks: its packages need not be there."""
    starts = tuple(start for start in FULL if "::" not in start)
    return "not full" in marks and path.is_file() and path.relative_to(root).as_posix().startswith(starts)


def wanted() -> set[str]:
    return set(WANTING.read_text().splitlines()) if WANTING.exists() else set()


def mark_lanes(items: list[pytest.Item], root: Path) -> None:
    """Mark what is of the full lane."""
    seen = Counter[str]()
    wanting = wanted()
    for item in items:
        path = item.path.relative_to(root).as_posix()
        test, _, params_of_id = f"{path}::{item.nodeid.partition('::')[2]}".partition("[")
        if test.startswith("models/test_cases"):
            test += f"[{params_of_id.rpartition(': ')[0]}"
        seen[test] += 1
        most = next((count for start, count in FIRST.items() if test.startswith(start)), seen[test])
        params = getattr(getattr(item, "callspec", None), "params", {})
        if (
            seen[test] > most
            or test.startswith(tuple(FULL))
            or params.get("engine") in FULL_BACKENDS
            or item.nodeid in wanting
        ):
            item.add_marker("full")


class Durations:
    """The seconds of each test, set-up and tear-down included, in a file; the slowest are shown."""

    def __init__(self, file: str, lane: str | None) -> None:
        self.file, self.lane, self.seconds = file, lane, Counter[str]()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid.removeprefix("tests/")] += report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        rows = [f"{seconds:8.2f}  {name}" for name, seconds in self.seconds.most_common()]
        Path(self.file).parent.mkdir(parents=True, exist_ok=True)
        Path(self.file).write_text("".join(f"{row}\n" for row in rows))
        sections = {"slowest 20, in seconds": rows[:20]}
        if self.lane == "default":
            long = [name for name, seconds in self.seconds.items() if seconds > LONG]
            sections[f"above {LONG} s without a reason in tests/lanes.py"] = [
                name for name in sorted(long) if not name.startswith(tuple(SLOW))
            ]
        for title, lines in sections.items():
            terminalreporter.section(title)
            for line in lines:
                terminalreporter.line(line)


class Wanting:
    """The tests that the default run skips for want of a package, in a file: the full lane has them too."""

    def __init__(self) -> None:
        self.names = wanted()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if wants_package(report):
            self.names.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        WANTING.parent.mkdir(exist_ok=True)
        WANTING.write_text("".join(f"{name}\n" for name in sorted(self.names)))


def wants_package(report: pytest.TestReport | pytest.CollectReport) -> bool:
    """True for a skip for want of a package."""
    return report.skipped and isinstance(report.longrepr, tuple) and any(word in report.longrepr[2] for word in WANTED)


def with_every_package(report: R) -> R:
    """The report, in which a skip for want of a package is a failure."""
    if wants_package(report):
        report.outcome, report.longrepr = "failed", f"{report.longrepr[2]}: the full lane must have it"
    return report
