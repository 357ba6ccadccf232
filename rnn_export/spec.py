"""The contract of a stream: its classes by the name that users import (`rnn_export.contract`)."""

from rnn_export.contract.spec import StateSpec, StreamSpec, TensorSpec

__all__ = ["StateSpec", "StreamSpec", "TensorSpec"]
