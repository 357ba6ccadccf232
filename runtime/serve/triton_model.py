"""A model of Triton's python backend: the sequences of a server are the streams of one pool.

The model.py of a repository that `rnn-export triton` wrote takes the class from here, in the server's own Python. Only
there, when the server begins, is triton_python_backend_utils imported.
"""

import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from rnn_export.contract.choices import BackendName, Precision
from rnn_export.errors import BackendUnavailable, BundleError, RoundBroken, StreamError
from rnn_export.platform.trusted_code import Trust
from rnn_export.runtime.backends.remote.wire import SEED, SNAPSHOT
from rnn_export.runtime.engine import load
from rnn_export.runtime.rounds import Rounds

# By name, of one row: what was fed, or what came of it.
Frame = dict[str, Any]


class TritonPythonModel:
    """Triton's name for it: `initialize` once, then `execute` with the requests that share a step, then `finalize`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle beside the config; raises BundleError or BackendUnavailable where they do not fit."""
        import triton_python_backend_utils

        self.triton: Any = triton_python_backend_utils
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        bundle = Path(args["model_repository"], args["model_version"], f"{args['model_name']}.rnnx")
        backend = cast(BackendName, parameters["rnn_export.runtime_backend"])
        # Written where the code was trusted; who can change config.pbtxt can change model.py beside it.
        trust = Trust(frozenset(parameters.get("rnn_export.trusted", "").split()))
        engine = load(bundle, backend, cast(Precision, parameters["rnn_export.precision"]), trust=trust)
        if engine.spec.dumps() != parameters["rnn_export.spec"]:
            raise BundleError(
                f"{bundle} is of another model than config.pbtxt: write the repository again.", id="triton-other-model"
            )
        low, high = engine.batches
        if low > 1 or (high is not None and high < config["max_batch_size"]):
            raise BackendUnavailable(
                f"the {engine.backend} engine takes {low} to {high} streams in a step, but max_batch_size is "
                f"{config['max_batch_size']}: build it for more, or write the repository with a smaller --batch.",
                id="triton-batch-over-engine",
            )
        self.name, self.spec, self.rounds = args["model_name"], engine.spec, Rounds(engine.spec)
        self.dims = {tensor["name"]: [int(n) for n in tensor["dims"]] for tensor in config["output"]}
        # Triton says nothing of sequences that were idle for too long or cancelled. It has `open_at_once` of them at a
        # time, so in a pool of twice as many the one that was stepped longest ago is dead when the pool is full.
        open_at_once = int(config["sequence_batching"]["oldest"]["max_candidate_sequences"])
        self.pool = engine.pool(capacity=2 * open_at_once, on_nan="keep")
        self.streams: OrderedDict[int, int] = OrderedDict()
        self._log(f"{engine.backend} ({engine.precision}) on {engine.device}")
        for reason in engine.skipped_backends:
            self._log(f"passed over was {reason}")

    def finalize(self) -> None:
        counts = self.pool.metrics()
        streams = f"{counts['open']} of {counts['capacity']} streams open, {counts['opened']} opened"
        self._log(f"{streams}, {counts['closed']} closed, {counts['frames']} frames in {counts['rounds']} steps")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """A response to each request; an error in one is answered to that one alone."""
        responses: list[Any] = [None] * len(requests)
        for group in _distinct([self._control(request, "CORRID") for request in requests]):
            for place, response in zip(group, self._step_group([requests[place] for place in group]), strict=True):
                responses[place] = response
        return responses

    def _step_group(self, requests: Sequence[Any]) -> list[Any]:
        """One step of different sequences."""
        responses: list[Any] = [None] * len(requests)
        rows: list[tuple[int, int, Frame]] = []
        for request in requests:
            if (sequence := self._control(request, "CORRID")) in self.streams:
                self.streams.move_to_end(sequence)
        for place, request in enumerate(requests):
            try:
                stream = self._stream(request)
                rows.append((place, stream, self._frame(request)))
            except StreamError as error:
                responses[place] = self._refusal(error)
        results = self._step([(stream, frame) for _, stream, frame in rows])
        for (place, stream, _), result in zip(rows, results, strict=True):
            responses[place] = self._response(requests[place], stream, result)
        for request in requests:
            if self._control(request, "END"):
                self._end(self._control(request, "CORRID"))
        return responses

    def _stream(self, request: Any) -> int:
        """The stream of a request's sequence; begun, where the request begins it, even if its frame is bad."""
        sequence, seed = self._control(request, "CORRID"), self._array(request, SEED).flat[0]
        if self._control(request, "START"):
            return self._start(sequence, seed)
        if seed:
            raise StreamError(
                f"{SEED} goes with the START flag alone: leave it empty in the other requests.", id="seed-without-start"
            )
        if sequence not in self.streams:
            fix = "the next request must specify the START flag"
            raise StreamError(f"sequence {sequence} is not, or no longer, known here: {fix}.", id="sequence-unknown")
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

    def _frame(self, request: Any) -> Frame:
        """The frames of a request by input, each (1, ...), checked."""
        shapes = {}
        for tensor in self.spec.inputs:
            frames = tensor.frames_of(self.spec.chunk)
            # No axis of time for a single frame.
            plain = tensor.axis("time") is None or frames == 1
            shapes[tensor.name] = tensor.frame if plain else (frames, *tensor.frame)
        return self.rounds.frame({name: self._array(request, name).reshape(shape) for name, shape in shapes.items()})

    def _step(self, rows: Sequence[tuple[int, Frame]]) -> list[Frame | StreamError]:
        """The outputs of each row by name, or why it was not fed: a frame that the backend refuses harms no other."""
        if not rows:
            return []
        inputs = {t.name: np.concatenate([frame[t.name] for _, frame in rows]) for t in self.spec.inputs}
        try:
            stepped = self.pool.step([stream for stream, _ in rows], inputs)
        except RoundBroken as error:
            return [error] * len(rows)
        except StreamError as error:
            return [error] if len(rows) == 1 else [result for row in rows for result in self._step([row])]
        outputs = stepped if isinstance(stepped, dict) else {self.spec.outputs[0].name: stepped}
        return [{name: values[i] for name, values in outputs.items()} for i in range(len(rows))]

    def _response(self, request: Any, stream: int, result: Frame | StreamError) -> Any:
        if isinstance(result, StreamError):
            return self._refusal(result)
        wanted = request.requested_output_names()
        values = {name: np.ascontiguousarray(value) for name, value in result.items() if name in wanted}
        tensors = [self.triton.Tensor(name, value.reshape(1, *self.dims[name])) for name, value in values.items()]
        if SNAPSHOT in wanted:
            tensors.append(self.triton.Tensor(SNAPSHOT, np.array([[self.pool.snapshot(stream)]], np.object_)))
        return self.triton.InferenceResponse(output_tensors=tensors)

    def _refusal(self, error: StreamError) -> Any:
        refusal = self.triton.TritonError(str(error), self.triton.TritonError.INVALID_ARG)
        return self.triton.InferenceResponse(error=refusal)

    def _array(self, request: Any, name: str) -> Any:
        return self.triton.get_input_tensor_by_name(request, name).as_numpy()

    def _control(self, request: Any, name: str) -> int:
        return int(self._array(request, name).flat[0])

    def _log(self, text: str) -> None:
        self.triton.Logger.log_info(f"{self.name}: {text}")


def _distinct(sequences: Sequence[int]) -> Iterator[list[int]]:
    """Indices of requests, in groups of different sequences: one that ended and began again may be there twice."""
    waiting = list(range(len(sequences)))
    while waiting:
        group = sorted({sequences[place]: place for place in reversed(waiting)}.values())
        yield group
        waiting = [place for place in waiting if place not in group]
