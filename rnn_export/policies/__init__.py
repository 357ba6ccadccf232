"""Robot policies of rsl_rl, Stable-Baselines3 and its contrib, skrl and rl_games, as `export` takes them.

    from rnn_export import export
    from rnn_export.policies import policy_of

    export(*policy_of(runner), "walk.rnnx")

Nothing of these libraries is imported: an object belongs to one of them, or is refused.
"""

from typing import TYPE_CHECKING

from rnn_export.lazy import attributes

if TYPE_CHECKING:
    from rnn_export.policies.policy import policy_of as policy_of

__all__ = ["policy_of"]

__getattr__ = attributes(__name__, {"policy_of": "rnn_export.policies.policy"})
