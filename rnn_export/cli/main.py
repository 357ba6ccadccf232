"""The `rnn-export` command. Each of its commands is the file of that name, imported when it is asked for.

Shared by all commands: --json, --verbose, --quiet, errors in one line, and exit codes.
"""

import difflib
import json
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import click

from rnn_export import __version__
from rnn_export.cli.voice import Voice, log_records
from rnn_export.errors import BackendUnavailable, ParityError, RnnExportError
from rnn_export.lazy import load_module
from rnn_export.platform.terminal_text import visible

COMMANDS = (
    "bench", "build", "doctor", "export", "inspect", "keygen", "leapp", "loadtest", "report", "run", "serve-web",
    "sign", "strip", "targets", "triton", "trust", "verify",
)  # fmt: skip
# Commands whose result is what they print; the others are as good without a word.
PRINTING = ("bench", "doctor", "inspect", "loadtest", "run", "targets")
# What the extras `onnx` and `export` install; only writing graphs needs them.
ONNX_PACKAGES = ("onnx", "onnx_ir", "onnxscript")
EXPORT_PACKAGES = ("torch", *ONNX_PACKAGES, "safetensors")

P = ParamSpec("P")


class Commands(click.Group):
    """A group whose command NAME is NAME_command of the module rnn_export.cli.NAME, with _ for a hyphen."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        found: click.Command = getattr(load_module(f"rnn_export.cli.{name}"), f"{name}_command")
        # click would cut it off at the width of a line.
        found.short_help = " ".join((found.help or "").split("\n\n")[0].split())
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            if not near or "did you mean" in error.message.lower():
                raise
            raise click.UsageError(f"{error.message.rstrip('.')}: did you mean {near[0]}?", ctx) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="rnn-export")
def main() -> None:
    """Recurrent networks from PyTorch to the edge: exported, verified, streamed step by step.

    SOURCE is file.py:factory or package.module:factory, a function that returns (model, example_inputs) or
    (model, example_inputs, options), where options are keywords of rnn_export.export.export. For `export` and
    `inspect` it may be an ONNX file that is a step already.

    Exit codes: 0 good, 1 a clear error, 2 usage, 3 the result is not what the model does.
    """


def command(function: Callable[P, dict[str, Any]]) -> click.Command:
    """Make a command of NAME_command(..., as_json), which returns its result as plain data and shows it unless as_json.

    An error of ours, or a package of the extra `export` that is not here, is exit code 1; ParityError is exit code 3.
    Its id is in the JSON, and in the line of an error with -v.
    """
    name = function.__name__.removesuffix("_command").replace("_", "-")

    @click.command(name)
    @click.option("-v", "--verbose", is_flag=True, help="Show each stage with its time, and log records.")
    @click.option("-q", "--quiet", is_flag=True, help="Show errors only, and the result of a command that prints one.")
    @click.option(
        "--json", "as_json", is_flag=True, help="Print the result as JSON on stdout; all else goes to stderr."
    )
    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        voice, as_json = Voice(bool(kwargs.pop("verbose")), bool(kwargs.pop("quiet"))), bool(kwargs["as_json"])
        if voice.verbose and voice.quiet:
            raise click.UsageError("--verbose and --quiet are opposites: leave one of them out.")
        click.get_current_context().obj = voice
        kwargs["as_json"] = as_json or (voice.quiet and name not in PRINTING)
        try:
            with log_records(voice.verbose):
                result = function(*args, **kwargs)
            if as_json:
                click.echo(json.dumps(result))
        except (RnnExportError, ModuleNotFoundError) as error:
            if isinstance(error, RnnExportError):
                shown = error
            elif (error.name or "").partition(".")[0] in EXPORT_PACKAGES:
                is_onnx = str(kwargs.get("source") or kwargs.get("what")).lower().endswith(".onnx")
                shown = _not_installed(error.name, "onnx" if is_onnx else "export")
            else:
                raise
            if as_json:
                click.echo(json.dumps({"error": type(error).__name__, "id": shown.id, "message": str(shown)}))
            named = f" ({shown.id})" if voice.verbose and shown.id else ""
            click.echo(visible(f"error{named}: {shown}", lines=True), err=True)
            sys.exit(3 if isinstance(error, ParityError) else 1)

    return run


def _not_installed(name: str | None, extra: str) -> RnnExportError:
    from rnn_export.platform.installing import pip_install

    return RnnExportError(
        f"this needs {name}, which is not here: {pip_install(f'{extra},cpu')}.", id="package-not-installed"
    )


def refuse_address(path: str, advice: str = "") -> None:
    """Raise BackendUnavailable where a command that needs the bundle is given the address of servers."""
    from rnn_export.runtime.backends.remote.address import is_address

    if is_address(path):
        raise BackendUnavailable(
            f"{path} is the address of servers, but this needs the bundle NAME.rnnx.{advice}", id="address-not-bundle"
        )
