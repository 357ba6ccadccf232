"""Code of a bundle that may run here, and why the rest may not."""

from dataclasses import dataclass
from pathlib import Path

from rnn_export.bundle.code import Code, code_of
from rnn_export.bundle.manifest import TargetRow
from rnn_export.bundle.reading import Bundle
from rnn_export.errors import TrustError
from rnn_export.platform.trusted_code import Trust, record_path, trusted_here


@dataclass(frozen=True)
class Judgement:
    """The code of a bundle that may run, that which may not, and why: in words that follow "it"."""

    trusted: tuple[Code, ...]
    untrusted: tuple[Code, ...]
    why: str = ""

    def untrusted_code(self, path: str) -> Code | None:
        """The code of `path`, where that may not run."""
        return next((code for code in self.untrusted if path in code.files), None)

    def has_untrusted_sources(self, row: TargetRow) -> bool:
        """True if the sources of the target `row` may not be compiled, for any machine."""
        wanted = (row.target, row.precision, None)
        return any((code.target, code.precision, code.machine) == wanted for code in self.untrusted)


def judge(bundle: Bundle, trust: bool | Trust = False) -> Judgement:
    """Look at all code of `bundle`; never raises.

    `trust` is True where the caller vouches for all of it; a `Trust` counts beside that of this machine.
    """
    code = code_of(bundle)
    if trust is True or not code:
        return Judgement(code, ())
    given, why_not_read = trust or Trust(), ""
    try:
        given |= trusted_here()
    except TrustError as error:
        why_not_read = f", and {error}"
    signed, unsigned = _signature(bundle, given)
    if signed:
        return Judgement(code, ())
    trusted = tuple(c for c in code if c.digest in given.code)
    record, no_record = record_path()
    where = f"not recorded as built here in {record}" if record else f"not recorded as built here ({no_record})"
    return Judgement(trusted, tuple(c for c in code if c not in trusted), f"is {where}, and {unsigned}{why_not_read}")


def check_signature(bundle: Bundle, key: str, named: Path) -> None:
    """Raise TrustError where `bundle` is not signed by the public key `key`, of the file `named`."""
    if bundle.signature is None:
        raise TrustError(
            f"{bundle.path} is not signed: rnn-export sign {bundle.path} --key KEY, by who holds the key.",
            id="bundle-not-signed",
        )
    if bundle.signature.key != key:
        raise TrustError(
            f"{bundle.path} is signed with the key {bundle.signature.key}, not with {key} of {named}.",
            id="signed-by-other-key",
        )
    if not bundle.signature.covers(bundle.raw):
        raise TrustError(
            f"{bundle.path} was changed after it was signed with {named}: get it again, or sign it again.",
            id="changed-after-signing",
        )


def _signature(bundle: Bundle, trust: Trust) -> tuple[bool, str]:
    """True if a trusted key signed the manifest; and the reason in words if not."""
    found = bundle.signature
    if found is None:
        return False, "the bundle is not signed"
    if found.key not in trust.keys:
        return False, f"the key that the bundle is signed with, {found.key}, is not trusted here"
    try:
        covers = found.covers(bundle.raw)
    except TrustError as error:
        return False, f"the bundle is signed with a trusted key, but {error}"
    return covers, "" if covers else "the bundle was changed after it was signed"
