"""The bundle, `NAME.rnnx/`: a directory with graphs, contract, proof and artefacts. BUNDLE.md specifies it in prose."""

from rnn_export.bundle.atomic import MANIFEST
from rnn_export.bundle.manifest import CHECKSUM, FORMAT, FileRow, TargetRow
from rnn_export.bundle.reading import INITIAL_STATES, MANIFEST_LIMIT, Bundle, open_bundle
from rnn_export.bundle.writing import extend_bundle, write_bundle

__all__ = [
    "CHECKSUM",
    "FORMAT",
    "INITIAL_STATES",
    "MANIFEST",
    "MANIFEST_LIMIT",
    "Bundle",
    "FileRow",
    "TargetRow",
    "extend_bundle",
    "open_bundle",
    "write_bundle",
]
