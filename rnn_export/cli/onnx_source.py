"""An ONNX file as SOURCE of `rnn-export export`: its own options, and those that it does not take."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rnn_export.export.export_options import ExportOptions


Words = tuple[tuple[str, str], ...]


def is_onnx(source: str) -> bool:
    """True if SOURCE is an ONNX file, and no factory."""
    return source.lower().endswith(".onnx")


def name_text(text: str) -> tuple[str, str]:
    """NAME=TEXT; a name may hold anything but the last "=", as names of graphs do."""
    name, _, value = text.rpartition("=")
    if not name or not value:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE.")
    return name, value


def onnx_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of an ONNX file alone."""
    for option in (
        click.option(
            "--initial", type=name_text, multiple=True, metavar="NAME=FILE.npy|N", help="ONNX: where a state starts."
        ),
        click.option(
            "--shape", "shapes", type=name_text, multiple=True, metavar="NAME=DIM,DIM",
            help="ONNX: an input's shape in a step: numbers, batch and time, as input=batch,512.",
        ),
        click.option(
            "--fix", "fixed", type=name_text, multiple=True, metavar="NAME=FILE.npy|N",
            help="ONNX: an input that is always the same, as sr=16000.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def file_options(keywords: Mapping[str, Any], fixed: Words, shapes: Words, initial: Words) -> ExportOptions:
    """Options of `export` for an ONNX file; a usage error where one is of a module."""
    from rnn_export.export.export_options import ONLY_OF, ExportOptions

    if wrong := [key for key in ONLY_OF["a PyTorch module"] if key in keywords]:
        names = ", ".join(f"--{key.replace('_', '-')}" for key in wrong)
        raise click.UsageError(f"{names} is said of a PyTorch module: leave it out, or see --shape.")
    options = {**keywords, "fixed": _values(fixed, "--fix"), "initial": _values(initial, "--initial")}
    options["shapes"] = {name: _dims(text) for name, text in shapes}
    if "states" in options:
        options["states"] = {name: None if out is None else str(out) for name, out in options["states"].items()}
    return ExportOptions(**options)


def refuse_file_options(source: str, **given: object) -> None:
    """A usage error where options of ONNX files are given for a factory."""
    if wrong := [f"--{name}" for name, value in given.items() if value]:
        raise click.UsageError(f"{', '.join(wrong)} is said of an ONNX file, and {source} is none: leave it out.")


def _values(words: Words, option: str) -> Mapping[str, Any]:
    import numpy as np

    from rnn_export.errors import SourceError
    from rnn_export.platform.arrays import unpack_array

    found: dict[str, Any] = {}
    for name, text in words:
        if name in found:
            raise click.BadParameter(f"{name!r} stands twice.", param_hint=option)
        if text.endswith(".npy"):
            try:
                found[name] = unpack_array(Path(text).read_bytes())
            except (OSError, ValueError) as error:
                raise SourceError(f"{os.fspath(text)} cannot be read as .npy: {error}.", id="npy-unreadable") from None
            continue
        try:
            number = float(text)
        except ValueError:
            raise click.BadParameter(f"{text!r} is no number and no .npy file.", param_hint=option) from None
        found[name] = np.array(int(number) if number.is_integer() else number)
    return found


def _dims(text: str) -> Sequence[int | str]:
    return tuple(int(part) if part.isdigit() else part for part in text.split(","))
