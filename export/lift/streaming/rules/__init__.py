"""The rules, by family of operators. A new family is a new file here, named in FAMILIES."""

from rnn_export.export.lift.streaming.context import rules_of
from rnn_export.export.lift.streaming.rules import cuts, joins, lengths, numbers, pools, recurrent, scans, windows

FAMILIES = (cuts, joins, lengths, numbers, pools, recurrent, scans, windows)
RULES = rules_of(FAMILIES)
