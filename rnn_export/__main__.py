"""`python -m rnn_export`: the command, where the scripts of the environment are not on PATH."""

from rnn_export.cli.main import main

main(prog_name="python -m rnn_export")
