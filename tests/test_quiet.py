"""Libraries are kept quiet in one thread, and process-wide settings stay untouched."""

import logging
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest

from rnn_export.platform.quiet import quiet

# torch gives its loggers handlers of their own once it is there.
LIBRARY = "onnxscript.made_for_a_test"


@pytest.fixture
def heard() -> Iterator[list[str]]:
    """Messages to the root's handlers."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.root.addHandler(handler)
    yield said
    logging.root.removeHandler(handler)
    assert handler.filters == []


def in_a_thread(work: object) -> None:
    thread = threading.Thread(target=work)  # type: ignore[arg-type]
    thread.start()
    thread.join()


def test_a_library_is_quiet_here_and_heard_elsewhere(heard: list[str], recwarn: pytest.WarningsRecorder) -> None:
    def speak(who: str) -> None:
        logging.getLogger(LIBRARY).warning("%s logs", who)
        # One that came meanwhile.
        logging.getLogger(f"onnxscript.new.{who}").warning("%s is new", who)
        logging.getLogger("theirs").warning("%s logs of their own", who)
        warnings.warn(f"{who} warns", stacklevel=1)

    streams, level = (sys.stdout, sys.stderr), logging.root.manager.disable
    with quiet():
        speak("inside")
        in_a_thread(lambda: speak("other"))
        assert (sys.stdout, sys.stderr, logging.root.manager.disable) == (*streams, level)
    speak("after")
    others = [f"{who} {what}" for who in ("other", "after") for what in ("logs", "is new", "logs of their own")]
    assert heard == ["inside logs of their own", *others]
    assert [str(w.message) for w in recwarn] == ["other warns", "after warns"]


def test_two_threads_leave_everything_as_it_was(heard: list[str]) -> None:
    """One that comes while another is quiet, and goes after it: what was saved and put back would stay."""
    before = [*warnings.filters], logging.getLogger(LIBRARY).filters[:], logging.root.manager.disable, sys.stdout
    first_is_in, second_is_in, first_is_out = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with quiet():
            first_is_in.set()
            second_is_in.wait(10)
        first_is_out.set()

    def second() -> None:
        first_is_in.wait(10)
        with quiet():
            second_is_in.set()
            first_is_out.wait(10)
            logging.getLogger(LIBRARY).warning("second")

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert before == ([*warnings.filters], logging.getLogger(LIBRARY).filters, logging.root.manager.disable, sys.stdout)
    assert heard == []


def test_an_exception_goes_through_and_nesting_counts(heard: list[str]) -> None:
    with pytest.raises(KeyError), quiet(), quiet():
        raise KeyError
    with quiet():
        with quiet():
            pass
        logging.getLogger(LIBRARY).warning("inside")
    logging.getLogger(LIBRARY).warning("after")
    assert heard == ["after"]


def test_who_catches_warnings_meanwhile_loses_none() -> None:
    with warnings.catch_warnings(record=True) as outside:
        warnings.simplefilter("always")
        with quiet(), warnings.catch_warnings():
            warnings.warn("inside", stacklevel=1)
        warnings.warn("after", stacklevel=1)
    assert [str(w.message) for w in outside] == ["after"]


def test_no_package_of_ours_replaces_what_is_the_process_s() -> None:
    """But for a command, which is the process, and converters in a process of their own."""
    from .test_architecture import modules

    separate = (
        "rnn_export.cli.",
        "rnn_export.export.targets.executorch.pte_conversion",
        "rnn_export.export.targets.litert.quantization",
    )
    words = (
        "redirect_stdout(",
        "redirect_stderr(",
        "logging.disable",
        "sys.stdout =",
        "sys.stderr =",
        "catch_warnings",
    )
    found = {m for m, path in modules().items() if any(word in path.read_text() for word in words)}
    assert {m for m in found if not m.startswith(separate)} == set()
