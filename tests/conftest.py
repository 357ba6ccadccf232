"""Marks that name the cost of a test, by its folder."""

import os
import runpy
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis.internal.conjecture import providers

from rnn_export import errors
from rnn_export.platform.trusted_code import VARIABLE

from . import lanes

# The nets are small: a second thread only waits for the first, and for long where the cores are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Every pass of lifting is checked on sample inputs after it ran.
os.environ.setdefault("RNN_EXPORT_CHECK", "1")

TESTS = Path(__file__).parent
# A mark and what stands under it, as the start of a path; the first that fits.
COSTS = {
    "server": ("triton/test_server", "triton/test_failover"),
    "native": ("native/", "attacks/", "export/test_c_", "build/test_compiler"),
    "export": (
        "export/", "from_onnx/", "models/", "parity/", "properties/", "tensorrt/", "test_cli", "test_silero",
        "test_pages", "test_load", "test_packaging", "test_target_pages", "test_npu_pages", "build/test_engine",
        "build/test_library",
    ),
}  # fmt: skip
MARKS = {
    "full": "of the full lane, which the default run leaves out",
    "unit": "needs no export, no compiler and no server",
    "export": "lifts or exports a model, or reads the bundle of one",
    "native": "compiles C",
    "server": "starts a server",
    "slow": "takes seconds",
    "contract": "what every backend of the runtime must do",
}

# Options of pytest that leave tests out.
CHOOSING = ("keyword", "deselect", "ignore", "ignore_glob", "lf", "collectonly")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        os.environ["RAISED_IDS"] = tempfile.mkdtemp(prefix="raised-")
        places = (str(TESTS / "every_process"), os.environ.get("PYTHONPATH"))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, places))
        runpy.run_path(str(TESTS / "every_process/sitecustomize.py"))["record"](errors)
        if (file := os.environ.get("RNN_EXPORT_DURATIONS")) is not None:
            config.pluginmanager.register(lanes.Durations(file, lanes.LANES.get(config.option.markexpr)))
        if lanes.LANES.get(config.option.markexpr) == "default":
            config.pluginmanager.register(lanes.Wanting())
    for mark, what in MARKS.items():
        config.addinivalue_line("markers", f"{mark}: {what}")
    # It draws numbers that stand in modules of ours too: which of them are imported hangs on what a worker ran before.
    setattr(providers, "_get_local_constants", lambda: providers._local_constants)  # noqa: B010


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return lanes.is_left_out(collection_path, TESTS, config.option.markexpr) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        path = item.path.relative_to(TESTS).as_posix()
        costs = [mark for mark, starts in COSTS.items() if path.startswith(starts)]
        item.add_marker(costs[0] if costs else "unit")
    lanes.mark_lanes(items, TESTS)


if os.environ.get("RNN_EXPORT_NO_SKIPS"):

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        return report if item.get_closest_marker("gpu") else lanes.with_every_package(report)

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        return lanes.with_every_package((yield))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail for ids that neither lane raised and no reason excuses, at the end of the full lane."""
    config = session.config
    if hasattr(config, "workerinput"):
        return
    folder = Path(os.environ.pop("RAISED_IDS"))
    raised = {name for file in folder.iterdir() for name in file.read_text().split()}
    shutil.rmtree(folder)
    lane = lanes.LANES.get(config.option.markexpr)
    chosen = any(getattr(config.option, name, None) for name in CHOOSING)
    # Failed tests are no reason to keep these back: they would be seen at the next run only.
    ended = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    if not ended or lane is None or chosen or config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return
    record = TESTS.parent / ".cache/raised-ids"
    if lane == "default":
        record.parent.mkdir(exist_ok=True)
        record.write_text("\n".join(sorted(raised)))
    elif record.exists():
        raised.update(record.read_text().split())
        lines = [(TESTS / name).read_text().splitlines() for name in ("messages.txt", "unraised.txt")]
        ids, excused = ({line.partition("  ")[0] for line in file} for file in lines)
        if never := sorted(ids - excused - raised - {"advice"}):
            writer = config.get_terminal_writer()
            writer.line(f"\n{len(never)} messages that no test raised, unexcused by tests/unraised.txt:", red=True)
            writer.line("\n".join(never))
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session", autouse=True)
def record_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Record the tests' builds in a folder of their own, never in the user's record, in subprocesses too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("xdg")))
        patch.delenv(VARIABLE, raising=False)
        patch.setattr("rnn_export.platform.trusted_code.MACHINE_WIDE", Path("/nonexistent/trust.d"))
        yield
