"""A bundle that is not written yet: what verification drives, and what is written once it has passed."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rnn_export.arrays import Array, pack_arrays
from rnn_export.bundle import INITIAL_STATES, Bundle, TargetRow, write_bundle
from rnn_export.spec import StreamSpec


@dataclass(frozen=True)
class Draft:
    """Files in memory that an engine opens as it opens those of a bundle; added to `base`, or a bundle of their own.

    `initial` has one row, without the batch axis, of every state by name; `notes` say how the targets were written.
    """

    spec: StreamSpec
    files: Mapping[str, bytes]
    targets: tuple[TargetRow, ...]
    initial: Mapping[str, Array]
    base: Bundle | None = None
    notes: Sequence[str] = ()

    def read(self, name: str) -> bytes:
        """The contents of one file; raises KeyError where the draft has none of that name."""
        return self.files[name]

    def initial_states(self) -> Mapping[str, Array]:
        return self.initial

    def with_files(self, target: str, precision: str, files: Mapping[str, bytes]) -> "Draft":
        """The same with `files` more, which are of one target."""
        rows = tuple(
            replace(row, files=(*row.files, *files)) if (row.target, row.precision) == (target, precision) else row
            for row in self.targets
        )
        return replace(self, files={**self.files, **files}, targets=rows)

    def write(
        self,
        path: str | os.PathLike[str],
        producer: Mapping[str, str],
        evidence: Mapping[str, bytes],
        weights: int | None,
        force: bool,
    ) -> Bundle:
        """Write a bundle of its own, with the files that prove it, in one atomic step; see `write_bundle`."""
        stored = {s.name: self.initial[s.name] for s in self.spec.states if s.initial == "stored"}
        files = {**self.files, **evidence}
        if stored:
            files[INITIAL_STATES] = pack_arrays(stored)
        return write_bundle(
            path, spec=self.spec, producer=producer, files=files, targets=self.targets, weights=weights, force=force
        )
