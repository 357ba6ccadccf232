"""The rules, by family of operators. A new family is a new file here, named in FAMILIES."""

from rnn_export.export.lift.streaming.rule_context import rules_of
from rnn_export.export.lift.streaming.rules import (
    cut_rules,
    join_rules,
    length_rules,
    pool_rules,
    recurrent_rules,
    scan_rules,
    window_rules,
)

FAMILIES = (
    cut_rules,
    join_rules,
    length_rules,
    pool_rules,
    recurrent_rules,
    scan_rules,
    window_rules,
)
RULES = rules_of(FAMILIES)
