"""The gate for code: a backend reads code of a bundle only where it is trusted."""

from collections.abc import Mapping, Sequence
from functools import cached_property

from rnn_export.bundle import Bundle, TargetRow
from rnn_export.bundle.code import Code, code_of
from rnn_export.bundle.judgement import Judgement, judge
from rnn_export.contract.spec import StreamSpec
from rnn_export.contract.target_table import TARGETS
from rnn_export.errors import Untrusted
from rnn_export.platform.arrays import Array
from rnn_export.platform.trusted_code import Trust
from rnn_export.runtime.protocols import Artefacts


def behind_gate(artefacts: Artefacts, trust: bool | Trust) -> Artefacts:
    """`artefacts` as a backend may read them. A draft is of this process, and its code may run."""
    return GatedBundle(artefacts, trust) if isinstance(artefacts, Bundle) and trust is not True else artefacts


class GatedBundle:
    """A bundle whose code is read only where it may run; every byte is held to the manifest that was judged."""

    def __init__(self, bundle: Bundle, trust: bool | Trust) -> None:
        self.bundle, self.trust = bundle, trust
        self.code = frozenset(path for code in code_of(bundle) for path in code.files)

    @property
    def spec(self) -> StreamSpec:
        return self.bundle.spec

    @property
    def targets(self) -> Sequence[TargetRow]:
        return self.bundle.targets

    def initial_states(self) -> Mapping[str, Array]:
        return self.bundle.initial_states()

    def read(self, name: str) -> bytes:
        """As `Bundle.read`; raises Untrusted where it is code and nothing says that it may run."""
        if name in self.code and (code := self.judgement.untrusted_code(name)):
            raise Untrusted(
                f"the bundle's {code.title} is code: it {self.judgement.why}. {mend(code)}", id="code-not-trusted"
            )
        return self.bundle.read(name)

    @cached_property
    def judgement(self) -> Judgement:
        # Whoever runs graphs alone reads no store.
        return judge(self.bundle, self.trust)


def mend(code: Code) -> str:
    """Advice on running `code`, for a bundle of known origin."""
    target = f"--target {code.target} --precision {code.precision}"
    made, row = f"rnn-export export SOURCE {target}", TARGETS.get(code.target)
    if row is None or not row.from_torch:
        made = f"rnn-export build NAME.rnnx {target} --rebuild"
    key = "rnn-export trust KEY.pub"
    return (
        f"Make it here, `{made}`; or trust the key of who signed it, `{key}`; --trust (trust=True) runs it unchecked."
    )
