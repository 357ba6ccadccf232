"""An engine: one loaded bundle, shared and immutable; it opens streams."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Generic, cast

import numpy as np
import numpy.typing as npt

from rnn_export.bundle import open_bundle
from rnn_export.contract import option_checks
from rnn_export.contract.choices import BackendName, OnNan, Precision, ServerAddress
from rnn_export.contract.html_tables import contract_table, facts_table
from rnn_export.errors import BackendUnavailable, NotInBundle, StreamError
from rnn_export.platform.arrays import Array
from rnn_export.platform.markup import joined
from rnn_export.platform.trusted_code import Trust
from rnn_export.runtime.backends.remote.address import is_address
from rnn_export.runtime.core.forks import watch, why_over
from rnn_export.runtime.core.frame_io import check_states
from rnn_export.runtime.core.row_by_row import RowByRow
from rnn_export.runtime.core.types import Y
from rnn_export.runtime.core.uncopied import Uncopied
from rnn_export.runtime.pool import Pool
from rnn_export.runtime.protocols import Artefacts, Session
from rnn_export.runtime.registry import BACKENDS, NEVER_AUTO, open_address, open_session
from rnn_export.runtime.stream import Stream
from rnn_export.runtime.stream_class import stream_class


def load(
    path: str | os.PathLike[str],
    backend: BackendName | ServerAddress = "auto",
    precision: Precision | None = None,
    device: str | None = None,
    threads: int = 1,
    trust: bool | Trust = False,
) -> Engine:
    """Open a bundle, every hash checked, and load it; or reach a model that servers run.

    Args:
        path: the directory NAME.rnnx; or "grpc://HOST:PORT,HOST:PORT/NAME", a model that `rnn-export triton` wrote, on
            one or several servers. "?deadline_ms=1000&snapshot_every=16" are the milliseconds that a server may take
            for a frame, and the frames after which the states are fetched, so that another server can go on.
        backend: "tensorrt", "native", "onnxruntime", "openvino", "litert", "torchscript", or "auto" for the fastest of
            these that this bundle and this machine support; "wasm", "coreml" and "executorch" where they are asked for;
            or the `ServerAddress` of servers that run this very bundle.
        precision: "fp32" and so on; None takes what the bundle has.
        device: "cpu", "cuda" or "cuda:N"; None is the GPU of an engine that fits this machine, else the CPU.
        threads: of the backend, for one step. "native" takes at most one a core, and only for large operators.
        trust: True lets machine code, TorchScript and engines of the bundle run unchecked. False runs code that this
            machine built or a key that it trusts has signed; a `Trust` names more.

    Raises BundleError if the bundle is damaged, and BackendUnavailable, with the reason, if the backend asked for
    cannot run, the bundle's code for it is not trusted, an address cannot be read, or no server of it answers; there is
    no fall-back.
    """
    if is_address(path):
        served, session = open_address(str(path), backend, precision, device, threads)
        return Engine(served, "remote", session)
    return Engine.of(open_bundle(path), backend, precision, device, threads, trust)


class Engine(Uncopied, Generic[Y]):
    """A loaded model. Any number of threads may open streams from it.

    Attributes:
        spec: the contract.
        backend: the backend that runs.
        device: where it runs: "cpu", "cuda:0".
        precision: "fp32" and so on.
        batches: the fewest and most rows that a stream of it may have; None where there is no most.
        skipped_backends: with "auto", the backends that the bundle has files for and that cannot run here, and why.
    """

    _not_copied = (
        "an engine cannot be copied or pickled, for what it loaded is the backend's: share it between threads, and "
        "load the bundle again in each process."
    )

    def __init__(self, artefacts: Artefacts, backend: str, session: Session) -> None:
        self.spec, self.backend, self.device = artefacts.spec, backend, session.device
        self.precision, self.batches = session.precision, session.batches
        self.skipped_backends: tuple[str, ...] = ()
        self._session, self._stream_class = session, stream_class(self.spec, session)
        # For several rows.
        self._rows, self._rows_class = session, self._stream_class
        in_pieces = self.spec.rows is not None and not session.steps_rows_independently
        if in_pieces or session.rows_at_once is not None:
            self._rows, self.batches = RowByRow(session, self.spec), (1, None)
            self._rows_class = stream_class(self.spec, self._rows)
        self._artefacts, self._initial = artefacts, artefacts.initial_states()
        self._over: StreamError | None = None
        watch(self)

    @staticmethod
    def of(
        artefacts: Artefacts,
        backend: str = "auto",
        precision: str | None = None,
        device: str | None = None,
        threads: int = 1,
        trust: bool | Trust = False,
    ) -> Engine:
        """Load what `artefacts` hold; the arguments are those of `load`."""
        if expected := option_checks.count()(threads):
            raise BackendUnavailable(
                f"threads is {option_checks.shown(threads)}, but {expected}.", id="threads-option-invalid"
            )
        if not isinstance(trust, bool | Trust):
            raise BackendUnavailable(
                f"trust is {option_checks.shown(trust)}, but must be True, False or a Trust.", id="trust-option-invalid"
            )
        if is_address(backend):
            served, session = open_address(backend, "auto", precision, device, threads, artefacts.spec)
            return Engine(served, "remote", session)
        refused: list[tuple[str, BackendUnavailable]] = []
        for name in [n for n in BACKENDS if n not in NEVER_AUTO] if backend == "auto" else (backend,):
            try:
                session = open_session(name, artefacts, precision, device, threads, trust)
            except BackendUnavailable as error:
                if backend != "auto":
                    raise
                refused.append((name, error))
                continue
            engine = Engine(artefacts, name, session)
            engine.skipped_backends = tuple(f"{n}: {e}" for n, e in refused if not isinstance(e, NotInBundle))
            return engine
        reasons = "".join(f"\n  {n}: {error}" for n, error in refused)
        raise BackendUnavailable(f"no backend can run this bundle here.{reasons}", id="no-backend-runs")

    def __repr__(self) -> str:
        return f"<Engine {self.backend} on {self.device}, {self.precision}: {self.spec.ports}>"

    def _repr_html_(self) -> str:
        low, high = self.batches
        rows = [("backend", self.backend), ("device", self.device), ("precision", self.precision)]
        rows.append(("rows of a stream", f"{low} or more" if high is None else f"{low} to {high}"))
        rows += [("passed over", why) for why in self.skipped_backends]
        spec = self.spec
        return joined((facts_table(rows), contract_table(spec.inputs, spec.outputs, spec.states, spec.summary)))

    def by_default(self) -> Engine | None:
        """The same bundle in its library's default precision, where that is less than the one asked for here."""
        session = self._session.by_default()
        return None if session is None else Engine(self._artefacts, self.backend, session)

    def after_fork(self) -> None:
        """See `runtime.forks`."""
        self._session.after_fork()
        self._over = why_over("this engine", self._session.survives_fork, held=False)

    def _check_here(self) -> None:
        if self._over is not None:
            raise self._over.with_traceback(None)

    def with_one_output(self) -> Engine[Array]:
        """This engine, typed: its streams and pools give arrays. Raises StreamError where the model has several."""
        if len(self.spec.outputs) != 1:
            raise StreamError(
                f"the model has the outputs {self._output_names()}: use with_named_outputs().", id="several-outputs"
            )
        return cast("Engine[Array]", self)

    def with_named_outputs(self) -> Engine[dict[str, Array]]:
        """This engine, typed: its streams and pools give dicts. Raises StreamError where the model has one output."""
        if len(self.spec.outputs) == 1:
            raise StreamError(
                f"the model has one output, {self._output_names()}: use with_one_output().", id="one-output-only"
            )
        return cast("Engine[dict[str, Array]]", self)

    def _output_names(self) -> str:
        return ", ".join(tensor.name for tensor in self.spec.outputs)

    def stream(self, batch: int = 1, states: Mapping[str, npt.ArrayLike] | None = None) -> Stream[Y]:
        """Open a stream of `batch` rows in lockstep, from the model's initial states or from `states`.

        Each of `states` is (batch, ...), or one row without the batch axis for every row; all must be given.
        Raises StreamError if one is missing, unknown or does not fit, or in a forked process that the backend
        does not work in.
        """
        self._check_here()
        if not isinstance(batch, int | np.integer) or batch < 1:
            raise StreamError(
                f"batch={batch!r}: a stream has at least one row, and a whole number of them.", id="batch-not-positive"
            )
        batch = int(batch)
        low, high = self.batches
        if batch < low or (high is not None and batch > high):
            fits = f"{min(low, batch)}:{batch}:{max(high or 1, batch)}"
            fix = f"Build it for more: rnn-export build NAME.rnnx --target T --batch {fits} --rebuild"
            raise StreamError(
                f"batch={batch}: the engine was built for {low} to {high} streams in one step. {fix}.",
                id="batch-outside-engine",
            )
        chosen = self._initial if states is None else check_states(self.spec, batch, states, self._initial)
        rows = {s.name: np.broadcast_to(chosen[s.name], (batch, *s.row)) for s in self.spec.states}
        if batch > 1:
            return self._rows_class(self.spec, self._rows, batch, rows, self._initial)
        return self._stream_class(self.spec, self._session, batch, rows, self._initial)

    def metrics(self) -> dict[str, float]:
        """Counts that the backend keeps since it was loaded, such as moves between servers; empty where it has none."""
        return self._session.metrics()

    def pool(self, capacity: int = 1024, idle_timeout: float | None = None, on_nan: OnNan = "reset") -> Pool[Y]:
        """Open a pool of independent streams that are stepped together.

        Args:
            capacity: the most streams.
            idle_timeout: seconds without a frame after which a stream is closed; None closes none.
            on_nan: the fate of a stream with a NaN in an output or a next state, whose row is given as it is: it is
                "reset" to the model's initial states, it is "close"d, or it is "keep"t.

        Raises StreamError where an argument does not fit, or the model needs whole sequences.
        """
        self._check_here()
        return Pool(self.spec, self._rows, self._initial, capacity, idle_timeout, on_nan)
