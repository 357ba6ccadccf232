"""The `rnn-export` command. Each of its commands is the file of that name, imported when it is asked for."""

from __future__ import annotations

import click

from rnn_export import __version__
from rnn_export.lazy import load_module

COMMANDS = ("bench", "build", "doctor", "export", "inspect", "run", "targets", "triton", "verify")


class Commands(click.Group):
    """A group whose command NAME is NAME_command of the module rnn_export.cli.NAME."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = getattr(load_module(f"rnn_export.cli.{cmd_name}"), f"{cmd_name}_command")
        return found


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="rnn-export")
def main() -> None:
    """Recurrent networks from PyTorch to the edge: exported, verified, streamed step by step.

    SOURCE is file.py:factory or package.module:factory, a function that returns (model, example_inputs) or
    (model, example_inputs, options), where options are keywords of rnn_export.export.export.

    Exit codes: 0 good, 1 a clear error, 2 usage, 3 the result is not what the model does.
    """
