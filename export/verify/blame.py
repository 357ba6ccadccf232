"""Turn exceptions of foreign code into errors of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rnn_export.errors import ExportError, RnnExportError, first_line

CONSEQUENCE = "Nothing was written."


@contextlib.contextmanager
def blamed(what: str) -> Iterator[None]:
    """An exception of somebody else's code as one line of ours; around a block, or a function."""
    try:
        yield
    except RnnExportError:
        raise
    except Exception as error:  # the model and onnx.reference may raise anything
        raise ExportError(
            f"{what}: {type(error).__name__}: {first_line(error)}. {CONSEQUENCE}", id="verified-code-fails"
        ) from error
