"""One file, written as a whole or not at all."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rnn_export.platform import host


@contextmanager
def save_atomically(path: Path) -> Iterator[Path]:
    """Give a place to write to, which becomes `path` when the block ends without an error; raises OSError."""
    with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=f".{path.name}.") as folder:
        written = Path(folder) / path.name
        yield written
        host.replace(written, path)
