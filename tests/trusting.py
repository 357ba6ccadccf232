"""Code that a test wrote by hand, or found in a cache, trusted as if it had been built here."""

from pathlib import Path

from rnn_export.bundle import Bundle, open_bundle
from rnn_export.bundle.code import code_of
from rnn_export.platform.trusted_code import remember


def trusted(bundle: Bundle | Path) -> Path:
    """The path of `bundle`, with all its code recorded."""
    opened = open_bundle(bundle) if isinstance(bundle, Path) else bundle
    remember([code.line for code in code_of(opened)])
    return opened.path
