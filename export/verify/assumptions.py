"""Compare the decisions of the user's module during verification with the assumptions of the contract."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rnn_export.errors import ParityError, keyword
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.export.verify.blame import CONSEQUENCE


def assumptions_seen(model: StreamingModel) -> list[dict[str, Any]]:
    """Each assumption, with counts of the module's decisions; raises ParityError if one that is said has none."""
    counts, found = model.original.decisions.seen.counts, []
    for assumption in model.spec.assumptions:
        seen = counts.get(assumption.at, Counter[bool]())
        if assumption.why == "said" and not seen:
            raise ParityError(
                f"{keyword('assume', {assumption.at: assumption.value})} cannot be checked: on what it is verified on, "
                "the model itself never asks a tensor there. Leave it out, or give a recording on which it does. "
                f"{CONSEQUENCE}",
                id="assumption-never-asked",
            )
        found.append({**vars(assumption), "was_true": seen[True], "was_false": seen[False]})
    return found
