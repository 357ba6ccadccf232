"""What the user's module decided while it was verified, beside what the contract takes for granted of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rnn_export.errors import ParityError, keyword
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.export.verify.blame import CONSEQUENCE


def assumptions_seen(model: StreamingModel) -> list[dict[str, Any]]:
    """Each assumption, and how often the user's module decided so and so; raises ParityError where it never did."""
    counts, found = model.original.decisions.seen.counts, []
    for assumption in model.spec.assumptions:
        seen = counts.get(assumption.at, Counter[bool]())
        if assumption.why == "said" and not seen:
            raise ParityError(
                f"{keyword('assume', {assumption.at: assumption.value})} cannot be checked: on what it is verified on, "
                "the model itself never asks a tensor there. Leave it out, or give a recording on which it does. "
                f"{CONSEQUENCE}"
            )
        found.append({**vars(assumption), "was_true": seen[True], "was_false": seen[False]})
    return found
