"""A bundle that is not written yet: verification drives it, and it is written once that has passed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rnn_export.bundle import Bundle, TargetRow
from rnn_export.contract.spec import StreamSpec
from rnn_export.platform.arrays import Arrays


@dataclass(frozen=True)
class Draft:
    """Files in memory that an engine opens as it opens those of a bundle; added to `base`, or a bundle of their own.

    `initial` has one row, without the batch axis, of every state by name; `notes` say how the targets were written.
    """

    spec: StreamSpec
    files: Mapping[str, bytes]
    targets: tuple[TargetRow, ...]
    initial: Arrays
    base: Bundle | None = None
    notes: Sequence[str] = ()

    def read(self, name: str) -> bytes:
        """The contents of one file; raises KeyError where the draft has none of that name."""
        return self.files[name]

    def initial_states(self) -> Arrays:
        return self.initial

    def with_files(self, target: str, precision: str, files: Mapping[str, bytes]) -> "Draft":
        """The same with `files` more, which are of one target."""
        rows = tuple(
            replace(row, files=(*row.files, *files)) if (row.target, row.precision) == (target, precision) else row
            for row in self.targets
        )
        return replace(self, files={**self.files, **files}, targets=rows)
