"""2,000 cases of the fuzz, which hypothesis draws and shrinks; `python -m tests.attacks.fuzz` has any number."""

import random
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rnn_export.errors import SourceError
from rnn_export.runtime import recording

from ..runtime.graphs import MODELS  # noqa: TID252
from .drive import BACKENDS, count, drive, restore
from .mutations import FIELDS, bundle_case, flipped, sound

TABLE: dict[str, Counter[str]] = {}


def cases(number: int) -> settings:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    return settings(max_examples=number, deadline=None, database=None, suppress_health_check=checks)


@cases(1000)
@given(st.sampled_from(sorted(FIELDS)), st.integers(0, 2**32))
def test_a_bundle_is_stepped_or_refused(field: str, number: int) -> None:
    count(TABLE, field, drive(bundle_case(field, random.Random(number))))


def test_the_fuzz_reaches_the_backends() -> None:
    """A fuzz whose cases all end in `open` finds nothing."""
    table = {field: Counter[str]() for field in FIELDS}
    for number in range(3):
        for field in FIELDS:
            count(table, field, drive(bundle_case(field, random.Random(number)), ("onnxruntime",)))
    total = sum(table.values(), Counter())
    assert total["onnxruntime stepped"] > total["cases"] / 5, total
    assert total["open opened"] > total["cases"] / 3, total


@cases(700)
@given(st.integers(0, 2**32))
def test_a_snapshot_is_restored_or_refused(number: int) -> None:
    assert restore(random.Random(number)) in ("stepped", "refused")


@cache
def _recordings() -> dict[str, bytes]:
    import io
    import wave

    from rnn_export.platform.arrays import pack_arrays

    x = np.ones((5, 3), np.float32)
    npy, wav = io.BytesIO(), io.BytesIO()
    np.save(npy, x)
    with wave.open(wav, "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(b"\0\1" * 30)
    csv = b"a,b,c\n1,2,3\n4,5,6\n"
    return {".npy": npy.getvalue(), ".npz": pack_arrays({"x": x}), ".csv": csv, ".wav": wav.getvalue()}


@cases(200)
@given(st.sampled_from((".npy", ".npz", ".csv", ".wav")), st.integers(0, 2**32))
def test_a_recording_is_read_or_refused(kind: str, number: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"r{kind}")
        path.write_bytes(flipped(random.Random(number), _recordings()[kind]))
        with suppress(SourceError):
            spec = replace(MODELS["sum"].spec, sample_rate=16000)
            assert recording.read(path, spec)["x"].shape[2:] == (3,)


@cases(100)
@given(st.sampled_from((".safetensors", ".pt")), st.integers(0, 2**32))
def test_weights_are_read_or_refused(kind: str, number: int) -> None:
    import torch
    from torch import nn

    from rnn_export.models.weights import load_weights, save_weights

    module = nn.Linear(2, 3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"w{kind}")
        if kind == ".pt":
            torch.save(module.state_dict(), path)
        else:
            save_weights(module, path)
        path.write_bytes(flipped(random.Random(number), path.read_bytes()))
        with suppress(SourceError):
            load_weights(module, path)


def test_what_the_fuzz_starts_from_is_sound() -> None:
    """Else every case is refused for the same reason."""
    outcomes = drive(sound(), (*BACKENDS, "torchscript"))
    assert set(outcomes.values()) <= {"opened", "stepped", "absent"}
    assert outcomes["onnxruntime"] == outcomes["torchscript"] == "stepped"
