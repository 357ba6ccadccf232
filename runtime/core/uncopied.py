"""Refuse to copy or pickle objects that hold backend memory, locks or threads."""

from typing import ClassVar, NoReturn, SupportsIndex

from rnn_export.errors import StreamError


class Uncopied:
    """`copy.copy`, `copy.deepcopy` and `pickle` raise StreamError, with what to do instead."""

    _not_copied: ClassVar[str]

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise StreamError(self._not_copied, id="stream-not-copied")
