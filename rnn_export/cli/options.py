"""Options of the command that are more than a word or a number, and how they are read."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from rnn_export.contract import option_checks
from rnn_export.contract.choices import Chunk

if TYPE_CHECKING:
    from rnn_export.runtime.recording import Source


# Flags that stand several times on the command line, with what one of them names.
PAIRS = {"states": ("--state", "a state is declared"), "assume": ("--assume", "a line is assumed")}


def export_keywords(**flags: Any) -> dict[str, Any]:
    """Keywords of `rnn_export.export.export` for the flags that stand on the command line.

    None, () and False are those of flags that do not. `time_axis` holds the words of --time-axis, `states` and `assume`
    the pairs of --state and --assume.
    """
    found = {name: value for name, value in flags.items() if value is not None and value is not False and value != ()}
    for name, (option, what) in PAIRS.items():
        if name in found:
            found[name], pairs = dict(found[name]), found[name]
            if len(found[name]) < len(pairs):
                raise click.BadParameter(f"{what} twice.", param_hint=option)
    if words := found.get("time_axis"):
        one = len(words) == 1 and "=" not in words[0]
        found["time_axis"] = word_or_number(words[0]) if one else dict(map(name_value, words))
    return found


def name_value(text: str) -> tuple[str, Any]:
    """NAME=VALUE, where VALUE is a number, "none" or a word."""
    name, _, value = text.partition("=")
    if not name or not value:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE.")
    return name, word_or_number(value)


def line_value(text: str) -> tuple[str, bool]:
    """FILE:LINE=true|false."""
    line, _, value = text.rpartition("=")
    if ":" not in line or value.lower() not in ("true", "false"):
        raise click.BadParameter(f"{text!r} is not FILE:LINE=true or FILE:LINE=false.")
    return line, value.lower() == "true"


def word_or_number(text: str) -> str | int | None:
    """A whole number, None for "none", or else the word itself."""
    if text == "none":
        return None
    return int(text) if text.removeprefix("-").isdigit() else text


def chunk(text: str) -> Chunk:
    """auto, or a whole number from 1 on."""
    if expected := option_checks.chunk(found := word_or_number(text)):
        raise click.BadParameter(f"chunk is {option_checks.shown(found)}, but {expected}.")
    return cast(Chunk, found)


def finite(context: click.Context, parameter: click.Parameter, value: float) -> float:
    """NaN is within every range."""
    if value != value:
        raise click.BadParameter(f"{value} is no number.")
    return value


def batch_range(text: str) -> tuple[int, int, int]:
    """MIN:OPT:MAX, or one number for all three."""
    parts = text.split(":")
    if len(parts) not in (1, 3) or not all(part.isdigit() for part in parts):
        raise click.BadParameter(f"{text!r} is neither MIN:OPT:MAX nor one number.")
    low, usual, high = map(int, parts * 3 if len(parts) == 1 else parts)
    return low, usual, high


def compute_capabilities(text: str) -> tuple[str, ...]:
    """Numbers like 8.6 with commas between them; none of them for "portable"."""
    return () if text == "portable" else tuple(text.split(","))


def source_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of reading a model: the same for every command that takes a SOURCE."""
    for option in (
        click.option(
            "--chunk",
            type=chunk,
            metavar="auto|N",
            help="Frames of one step; auto takes the fewest that the model's strides need.  [default: auto]",
        ),
        click.option(
            "--state",
            "states",
            type=name_value,
            multiple=True,
            metavar="ARG=OUT",
            help="A state passed explicitly: argument of forward = output it comes back as (index or name), or none.",
        ),
        click.option(
            "--time-axis",
            multiple=True,
            metavar="auto|none|N|NAME=N",
            help="Where time stands: found by running the model, not there, an axis, or an axis by input.",
        ),
        click.option(
            "--assume",
            type=line_value,
            multiple=True,
            metavar="FILE:LINE=true|false",
            help="Whether the tensor that a line of code asks (if mask.all():) is always true or false in a stream.",
        ),
        click.option(
            "--weights",
            type=click.Path(path_type=Path),
            help="Weights: .safetensors, or .pt, .pth, .ckpt of tensors only.",
        ),
    ):
        function = option(function)
    return function


def trust_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--trust",
        is_flag=True,
        help="Run machine code, TorchScript and engines of BUNDLE though nobody trusted has made or signed them.",
    )(function)


def columns_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--columns",
        type=column_names,
        metavar="NAME,NAME|N,N",
        help="Columns of a .csv to read, in this order: names of its header, or numbers from 1 on.  [default: all]",
    )(function)


def column_names(text: str) -> tuple[str, ...]:
    """Names with commas between them, quoted where a name has one itself."""
    names = tuple(name.strip() for name in next(csv.reader([text], skipinitialspace=True), []))
    if not names or "" in names:
        raise click.BadParameter(f"{text!r}: give names of columns, or numbers from 1 on, with commas between them.")
    return names


def with_columns(columns: tuple[str, ...] | None, *files: Path | None) -> "list[Source | None]":
    """`files`, of each .csv the columns that --columns picks; raises UsageError where it has no .csv to pick from."""
    from rnn_export.runtime.recording import Csv

    selected = {file: Csv(file, columns) for file in files if columns and file and file.suffix.lower() == ".csv"}
    if columns and not selected:
        raise click.UsageError("--columns picks columns of a .csv, and none is given: leave it out.")
    return [file and selected.get(file, file) for file in files]


def calibrate_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--calibrate",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="A recording that int8 takes its scales from.  [default: measured at each step]",
    )(function)
