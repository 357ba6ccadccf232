"""A contract's assumption about a decision in the model's code."""

from dataclasses import dataclass
from typing import Literal

from rnn_export import limits
from rnn_export.errors import SpecError


@dataclass(frozen=True)
class Assumption:
    """The contract's assumption about a decision that the model's code takes by the value of a tensor.

    `at` is the line, "file.py:190". `value` is the decision. `why`: "said" by the user; "either", where that branch is
    right whatever the tensor holds; "raises", where the other branch raises an exception; "weights", where no input can
    change it.
    """

    at: str
    value: bool
    why: Literal["said", "either", "raises", "weights"]

    def __post_init__(self) -> None:
        if not self.at or len(self.at) > limits.NAME:
            raise SpecError(
                f"an assumption is at {self.at[:80]!r}: it needs a place of 1 to {limits.NAME} characters.",
                id="assumption-place-length",
            )
        if self.why not in ASSUMED:
            raise SpecError(
                f"assumption {self.at!r}: why is {self.why!r}, but only {', '.join(ASSUMED)} exist.",
                id="assumption-reason-unknown",
            )

    @property
    def note(self) -> str:
        """The assumption in words, for a message."""
        return f"{self.at}: {ASSUMED[self.why].format(str(self.value).lower(), str(not self.value).lower())}"


# By why, with the value and its opposite.
ASSUMED = {
    "said": "assumed to be {} in every stream, as was said",
    "either": "the way of {} is taken, which is right whatever the tensor holds, as was tried with both",
    "raises": "the way of {} is taken: where it is {}, the model raises an exception, and a stream does not",
    "weights": "always {}, since nothing that is fed can change it",
}
