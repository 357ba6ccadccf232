"""What every command has: --json, errors in one line, and exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import click

from rnn_export.errors import BackendUnavailable, ParityError, RnnExportError

# What the extra `export` installs; only writing graphs needs them.
EXPORT_PACKAGES = ("torch", "onnx", "onnx_ir", "onnxscript", "safetensors")

P = ParamSpec("P")


def command(function: Callable[P, dict[str, Any]]) -> click.Command:
    """Make a command of NAME_command(..., as_json), which returns its result as plain data and shows it unless as_json.

    With --json the result is printed as JSON. An error of ours ends the process with exit code 1, or 3 if it is a
    ParityError; so does a package of the extra `export` that is not installed.
    """

    @click.command(function.__name__.removesuffix("_command"))
    @click.option(
        "--json", "as_json", is_flag=True, help="Print the result as JSON on stdout; all else goes to stderr."
    )
    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            result = function(*args, **kwargs)
            if kwargs["as_json"]:
                click.echo(json.dumps(result))
        except (RnnExportError, ModuleNotFoundError) as error:
            message = str(error)
            if isinstance(error, ModuleNotFoundError):
                if (error.name or "").partition(".")[0] not in EXPORT_PACKAGES:
                    raise
                message = f"this needs {error.name}, which is not here: pip install 'rnn-export[export,cpu]'."
            if kwargs["as_json"]:
                click.echo(json.dumps({"error": type(error).__name__, "message": message}))
            click.echo(f"error: {message}", err=True)
            sys.exit(3 if isinstance(error, ParityError) else 1)

    return run


def refuse_address(path: str, advice: str = "") -> None:
    """Raise BackendUnavailable where a command that needs the bundle is given the address of servers."""
    from rnn_export.runtime.backends.remote.address import is_address

    if is_address(path):
        raise BackendUnavailable(f"{path} is the address of servers, but this needs the bundle NAME.rnnx.{advice}")
