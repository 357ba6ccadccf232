"""Nets that others trained: the module, and its export streamed frame by frame, against the third party's values."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rnn_export.errors import LiftError
from rnn_export.export import export
from rnn_export.runtime.engine import Engine, load

from ..zoo import store  # noqa: TID252
from .fixtures import FIXTURES, Array, Fixture, Reference, thai, thai_ids, thai_sentences, thai_words

every_fixture = pytest.mark.parametrize("fixture", FIXTURES, ids=lambda fixture: fixture.name)
every_sentence = pytest.mark.parametrize("sentence", thai_sentences(), ids=("t0", "t1", "t2", "t3"))


@pytest.fixture(scope="module")
def engine() -> Callable[[Fixture], Engine]:
    """Load a net once for all tests of it."""
    named = cache(lambda name: load(store.bundle(name), backend="onnxruntime"))
    return lambda fixture: named(fixture.name)


def check(fixture: Fixture, reference: Reference, outputs: list[Array]) -> None:
    for got, want, atol in zip(outputs, reference.outputs, fixture.atol, strict=True):
        assert np.ptp(want) > 1000 * atol  # a constant would not do
        np.testing.assert_allclose(got, want, rtol=0, atol=atol)


def listed(outputs: Any) -> list[Array]:
    return list(outputs.values()) if isinstance(outputs, dict) else [outputs]


@every_fixture
def test_the_module_gives_the_third_party_s_values(fixture):
    reference = fixture.reference()
    with torch.no_grad():
        outputs = fixture.drive(fixture.load(), torch.from_numpy(reference.inputs)[None])
    check(fixture, reference, [y[0].numpy() for y in outputs])


@every_fixture
def test_the_export_streamed_frame_by_frame_gives_the_third_party_s_values(engine, fixture):
    reference, stream = fixture.reference(), engine(fixture).stream()
    frames, states = [], []
    for t, frame in enumerate(reference.inputs):
        frames.append(listed(stream.step(frame)))
        if t in reference.at:
            # The C code and ours keep them in this order: the smaller first, then h before c.
            states.append(np.concatenate(sorted((s.ravel() for s in stream.states.values()), key=len)))
    check(fixture, reference, [np.stack(one) for one in zip(*frames, strict=True)])
    for t, got, want in zip(reference.at, states, reference.states, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=fixture.atol_states, err_msg=f"states after frame {t}")


@every_fixture
def test_the_export_run_at_once_gives_the_third_party_s_values(engine, fixture):
    reference = fixture.reference()
    check(fixture, reference, listed(engine(fixture).stream().run(reference.inputs)))


def test_a_learned_start_is_stored_in_the_bundle(engine):
    """The amplifier's h0 and c0: from zeros its first samples would be others."""
    fixture = next(f for f in FIXTURES if f.name == "nam")
    spec, model = engine(fixture).spec, fixture.load()
    assert [(s.name, s.initial) for s in spec.states] == [("lstm.l0.h", "stored"), ("lstm.l0.c", "stored")]
    states = engine(fixture).stream().states
    np.testing.assert_array_equal(states["lstm.l0.h"][0], model.h0.detach().numpy())
    np.testing.assert_array_equal(states["lstm.l0.c"][0], model.c0.detach().numpy())


# --- a net that needs the whole sequence --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def thai_engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    path: Path = tmp_path_factory.mktemp("thai") / "thai.rnnx"
    export(thai(), (torch.zeros(1, 7, dtype=torch.long),), path, sequence_only=True)
    return load(path)


@every_sentence
def test_the_thai_module_gives_the_third_party_s_values_and_words(sentence):
    with torch.no_grad():
        probability = thai()(torch.from_numpy(thai_ids(sentence.text))[None])[0].numpy()
    np.testing.assert_array_equal(thai_ids(sentence.text), sentence.ids)
    np.testing.assert_allclose(probability, sentence.probability, rtol=0, atol=2e-6)
    assert thai_words(sentence.text, probability) == sentence.words


@every_sentence
def test_the_thai_export_gives_the_third_party_s_values_and_words(thai_engine, sentence):
    probability = thai_engine.stream().run(sentence.ids)
    np.testing.assert_allclose(probability, sentence.probability, rtol=0, atol=2e-6)
    assert thai_words(sentence.text, probability) == sentence.words


def test_a_bidirectional_net_is_refused_as_a_stream_by_the_path_of_its_layer(tmp_path):
    with pytest.raises(LiftError) as refused:
        export(thai(), (torch.zeros(1, 7, dtype=torch.long),), tmp_path / "thai.rnnx")
    for part in ("lstm", "bidirectional", "--sequence-only"):
        assert part in str(refused.value)
    assert not (tmp_path / "thai.rnnx").exists()
