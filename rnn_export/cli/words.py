"""Arguments with some known values: a shell completes them, and the command judges them."""

import glob
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import get_args

import click
from click.shell_completion import CompletionItem

from rnn_export.contract.choices import BackendName
from rnn_export.contract.choices import Precision as PrecisionName


class Word(click.types.StringParamType):
    """Any word; `known` gives those to complete."""

    def __init__(self, known: Callable[[], Iterable[str]]) -> None:
        self.known = known

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Those known that begin so."""
        return [CompletionItem(word) for word in self.known() if word.startswith(incomplete)]


class BundlePath(click.Path):
    """Any path; the bundles there are completed, and folders on the way to others."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Bundles that begin so, and a word to the shell to look for folders."""
        bundles = [path for path in glob.glob(f"{glob.escape(incomplete)}*.rnnx") if Path(path).is_dir()]
        return [*map(CompletionItem, sorted(bundles)), CompletionItem(incomplete, type="dir")]


def _targets() -> Iterable[str]:
    from rnn_export.contract.target_table import TARGETS

    return TARGETS


def _triples() -> Iterable[str]:
    from rnn_export.runtime.build.native.machines import MACHINES

    return MACHINES


BUNDLE, BUNDLE_OR_ADDRESS = BundlePath(path_type=Path), BundlePath()
TARGET, TRIPLE = Word(_targets), Word(_triples)
BACKEND, PRECISION = Word(lambda: get_args(BackendName)), Word(lambda: get_args(PrecisionName))
