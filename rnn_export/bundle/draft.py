"""A bundle that is not written yet: what verification drives, and what is written once it has passed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from rnn_export.arrays import Array, pack_arrays
from rnn_export.bundle import INITIAL_STATES, Bundle, TargetRow, write_bundle
from rnn_export.spec import StreamSpec


@dataclass(frozen=True)
class Draft:
    """The same face as an open bundle."""

    spec: StreamSpec
    files: Mapping[str, bytes]
    targets: tuple[TargetRow, ...]
    initial: Mapping[str, Array]

    def read(self, name: str) -> bytes:
        return self.files[name]

    def initial_states(self) -> Mapping[str, Array]:
        return self.initial

    def proven(self, target: str, precision: str, files: Mapping[str, bytes]) -> Draft:
        """With `files` more of one target."""
        rows = tuple(
            replace(row, files=(*row.files, *files)) if (row.target, row.precision) == (target, precision) else row
            for row in self.targets
        )
        return replace(self, files={**self.files, **files}, targets=rows)

    def write(
        self,
        path: str | os.PathLike[str],
        producer: Mapping[str, str],
        proof: Mapping[str, bytes],
        weights: int | None,
        force: bool,
    ) -> Bundle:
        """Write the bundle, with the files of its proof, in one atomic step."""
        stored = {s.name: self.initial[s.name] for s in self.spec.states if s.initial == "stored"}
        files = {**self.files, **proof}
        if stored:
            files[INITIAL_STATES] = pack_arrays(stored)
        return write_bundle(
            path,
            spec=self.spec,
            producer=producer,
            files=files,
            targets=self.targets,
            weights=weights,
            force=force,
        )


class Added(NamedTuple):
    """Row and files of a target that a bundle had no graph for, and what a user should know of how it was written."""

    row: TargetRow
    files: Mapping[str, bytes]
    notes: Sequence[str] = ()
