"""The writer of each target, imported when used from the folder that the target table names."""

from rnn_export.contract.target_table import TARGETS
from rnn_export.export.targets.base import TargetWriter
from rnn_export.lazy import load_module


def find_writer(target: str) -> TargetWriter:
    """The writer of a target that the target table has a row for."""
    writer: TargetWriter = load_module(f"rnn_export.export.targets.{TARGETS[target].folder}.writer").Writer()
    return writer
