"""The model that Triton's python backend runs: the sequences of a server are the streams of one pool.

This file is copied into the model repository, and runs in the server's own Python, where rnn-export is installed.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from rnn_export.errors import BackendUnavailable, BundleError, RoundBroken, StreamError
from rnn_export.runtime import load
from rnn_export.runtime.rounds import Rounds

SEED, SNAPSHOT = "rnn_seed", "rnn_snapshot"


class TritonPythonModel:
    """Triton's name for it: `initialize` once, then `execute` with the requests that share a step."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        told = {name: value["string_value"] for name, value in config["parameters"].items()}
        bundle = Path(args["model_repository"], args["model_version"], f"{args['model_name']}.rnnx")
        engine = load(bundle, backend=told["rnn_export.runtime_backend"], precision=told["rnn_export.precision"])
        if engine.spec.dumps() != told["rnn_export.spec"]:
            raise BundleError(f"{bundle} is of another model than config.pbtxt: write the repository again.")
        low, high = engine.batches
        if low > 1 or (high is not None and high < config["max_batch_size"]):
            raise BackendUnavailable(
                f"the {engine.backend} engine takes {low} to {high} streams in a step, but max_batch_size is "
                f"{config['max_batch_size']}: build it for more, or write the repository with a smaller --batch."
            )
        self.inputs = {t.name: t for t in engine.spec.inputs}
        self.dims = {t["name"]: [int(n) for n in t["dims"]] for t in config["output"]}
        self.rounds = Rounds(engine.spec)
        # Triton says nothing of sequences that were idle for too long or cancelled. It has `open_at_once` of them at a
        # time, so in a pool of twice as many the one that was stepped longest ago is dead when the pool is full.
        open_at_once = int(config["sequence_batching"]["oldest"]["max_candidate_sequences"])
        self.pool = engine.pool(capacity=2 * open_at_once, on_nan="keep")
        self.streams: OrderedDict[int, int] = OrderedDict()
        self.name = args["model_name"]
        pb_utils.Logger.log_info(f"{self.name}: {engine.backend} ({engine.precision}) on {engine.device}")

    def finalize(self) -> None:
        told = self.pool.metrics()
        of = f"{told['open']} of {told['capacity']} streams open, {told['opened']} opened, {told['closed']} closed"
        pb_utils.Logger.log_info(f"{self.name}: {of}, {told['frames']} frames in {told['rounds']} steps")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        answers: list[Any] = [None] * len(requests)
        for turn in _turns([_control(request, "CORRID") for request in requests]):
            for place, answer in zip(turn, self._round([requests[place] for place in turn]), strict=True):
                answers[place] = answer
        return answers

    def _round(self, requests: Sequence[Any]) -> list[Any]:
        """One step of different sequences: what is wrong with a request is answered to that request alone."""
        answers: list[Any] = [None] * len(requests)
        fed = []
        for sequence in (_control(request, "CORRID") for request in requests):
            if sequence in self.streams:
                self.streams.move_to_end(sequence)
        for place, request in enumerate(requests):
            try:
                stream = self._stream(request)
                fed.append((place, stream, self._frame(request)))
            except StreamError as error:
                answers[place] = _refusal(error)
        results = self._step([(stream, frame) for _, stream, frame in fed])
        for (place, stream, _), result in zip(fed, results, strict=True):
            answers[place] = self._answer(requests[place], stream, result)
        for request in requests:
            if _control(request, "END"):
                self._end(_control(request, "CORRID"))
        return answers

    def _stream(self, request: Any) -> int:
        """The stream of a request's sequence; begun, where the request begins it, even if its frame is bad."""
        sequence, seed = _control(request, "CORRID"), _array(request, SEED).flat[0]
        if _control(request, "START"):
            return self._start(sequence, seed)
        if seed:
            raise StreamError(f"{SEED} goes with the START flag alone: leave it empty in the other requests.")
        if sequence not in self.streams:
            raise StreamError(
                f"sequence {sequence} is not, or no longer, known here: the next request must specify the START flag."
            )
        return self.streams[sequence]

    def _start(self, sequence: int, seed: bytes) -> int:
        self._end(sequence)
        if len(self.streams) == self.pool.capacity:
            self._end(next(iter(self.streams)))
        self.streams[sequence] = self.pool.open(snapshot=seed or None)
        return self.streams[sequence]

    def _end(self, sequence: int) -> None:
        if sequence in self.streams:
            self.pool.close(self.streams.pop(sequence))

    def _frame(self, request: Any) -> dict[str, Any]:
        """The frames of a request by input, each (1, ...), checked."""
        chunk = self.rounds.spec.chunk
        frames = {}
        for name, tensor in self.inputs.items():
            timed = chunk > 1 and tensor.axis("time") is not None
            frames[name] = _array(request, name).reshape((chunk, *tensor.frame) if timed else tensor.frame)
        return self.rounds.frame(frames)

    def _step(self, fed: Sequence[tuple[int, dict[str, Any]]]) -> list[dict[str, Any] | StreamError]:
        """The outputs of each row by name, or why it was not fed: a frame that the backend refuses harms no other."""
        if not fed:
            return []
        frames = {name: np.concatenate([frame[name] for _, frame in fed]) for name in self.inputs}
        try:
            given = self.pool.step([stream for stream, _ in fed], frames)
        except RoundBroken as error:
            return [error] * len(fed)
        except StreamError as error:
            return [error] if len(fed) == 1 else [result for one in fed for result in self._step([one])]
        named = given if isinstance(given, dict) else {self.rounds.spec.outputs[0].name: given}
        return [{name: rows[i] for name, rows in named.items()} for i in range(len(fed))]

    def _answer(self, request: Any, stream: int, result: dict[str, Any] | StreamError) -> Any:
        if isinstance(result, StreamError):
            return _refusal(result)
        asked = request.requested_output_names()
        tensors = [
            pb_utils.Tensor(name, np.ascontiguousarray(row).reshape(1, *self.dims[name]))
            for name, row in result.items()
            if name in asked
        ]
        if SNAPSHOT in asked:
            tensors.append(pb_utils.Tensor(SNAPSHOT, np.array([[self.pool.snapshot(stream)]], np.object_)))
        return pb_utils.InferenceResponse(output_tensors=tensors)


def _turns(sequences: Sequence[int]) -> Iterator[list[int]]:
    """Places of requests, each of another sequence: one that ended and was begun again may be there twice."""
    waiting = list(range(len(sequences)))
    while waiting:
        turn = sorted({sequences[place]: place for place in reversed(waiting)}.values())
        yield turn
        waiting = [place for place in waiting if place not in turn]


def _array(request: Any, name: str) -> Any:
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()


def _control(request: Any, name: str) -> int:
    return int(_array(request, name).flat[0])


def _refusal(error: StreamError) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))
