"""`lift` with the fields of its options as keywords."""

from rnn_export.export.lift.options import LiftOptions
from rnn_export.export.lift.stages import lift as lift_with


def lift(model, example_inputs, **options):
    return lift_with(model, example_inputs, LiftOptions(**options))
