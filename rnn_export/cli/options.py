"""Options of the command that are more than a word or a number, and how they are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def pair(text: str) -> tuple[str, Any]:
    """NAME=VALUE, where VALUE is a number, "none" or a word."""
    name, _, value = text.partition("=")
    if not name or not value:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE.")
    return name, number(value)


def number(text: str) -> Any:
    if text == "none":
        return None
    return int(text) if text.removeprefix("-").isdigit() else text


def finite(context: click.Context, parameter: click.Parameter, value: float) -> float:
    """A number; NaN is within every range."""
    if value != value:
        raise click.BadParameter(f"{value} is no number.")
    return value


def batch(text: str) -> tuple[int, int, int]:
    parts = text.split(":")
    if len(parts) not in (1, 3) or not all(part.isdigit() for part in parts):
        raise click.BadParameter(f"{text!r} is neither MIN:OPT:MAX nor one number.")
    low, usual, high = map(int, parts * 3 if len(parts) == 1 else parts)
    return low, usual, high


def compute(text: str) -> tuple[str, ...]:
    return () if text == "portable" else tuple(text.split(","))


def source_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """How a model is brought and read: the same for every command that takes a SOURCE."""
    for option in (
        click.option("--chunk", type=click.IntRange(1), help="Frames per step.  [default: 1]"),
        click.option(
            "--state",
            "states",
            type=pair,
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
            "--weights", type=click.Path(path_type=Path), help="Weights: .safetensors, or .pt of tensors only."
        ),
    ):
        function = option(function)
    return function


def calibrate_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """A recording for the scales of int8."""
    return click.option(
        "--calibrate",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="A recording that int8 takes its scales from.  [default: measured at each step]",
    )(function)
