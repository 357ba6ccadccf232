"""Claims that are not proven, and the hashes and key that hold the files together."""

from collections.abc import Iterator

from rnn_export.page.builds import size_text
from rnn_export.page.facts import Facts
from rnn_export.platform.markup import Html, code, element, joined, table

# Of what no input reached, and of all that is not proven, how much is listed.
SIDES, MOST = 12, 100
# Of the table of files, how many stand open.
OPEN = 16
TRIALS = (
    "memory of more frames than a trial has, a threshold that none of the inputs crosses, and an error below the "
    "tolerance: no trial shows them"
)


def not_proven(facts: Facts) -> list[str]:
    """Each in a line of its own, of very many the first."""
    found = [*_of_builds(facts), *_of_contract(facts), *_of_evidence(facts)]
    more = [f"and {len(found) - MOST} more, in parity.json"] if len(found) > MOST else []
    return [*found[:MOST], *more, TRIALS]


def _of_builds(facts: Facts) -> Iterator[str]:
    yield from (f"{build.title}: {build.proof.missing}" for build in facts.builds if build.proof.missing)
    for target, ran in dict.fromkeys((build.target, build.ran) for build in facts.builds if build.ran):
        yield f"{target}: the tests of rnn-export run it on these alone: {ran}"
    if facts.timing is None and not facts.spec.sequence_only:
        yield "how long a step takes: it was not timed for this page"


def _of_evidence(facts: Facts) -> Iterator[str]:
    evidence = facts.evidence
    if evidence is None:
        yield "that anything here does what a model did: there is no report that could be read"
        return
    yield from (f"{kind}, not judged: {why}" for kind, why in evidence.get("not_judged", {}).items())
    sides = evidence.get("not_exercised", [])
    yield from (f"{side['op']} in {side['place']} was never {side['never']}" for side in sides[:SIDES])
    if len(sides) > SIDES:
        yield f"and {len(sides) - SIDES} more sides of thresholds that no input reached: parity.json has them"
    shown = {assumption.note for assumption in facts.spec.assumptions}
    yield from (note for note in evidence.get("notes", []) if note not in shown)


def _of_contract(facts: Facts) -> Iterator[str]:
    yield from (f"decision at {assumption.note}" for assumption in facts.spec.assumptions)
    if facts.spec.max_context:
        yield facts.spec.context_note


def not_proven_section(facts: Facts) -> Html:
    return element("ul", *(element("li", line) for line in not_proven(facts)))


def files_section(facts: Facts) -> Iterator[Html]:
    """Every file with its hash, the manifest's, and who signed it."""
    if facts.manifest is not None:
        yield element("p", "sha256 of the manifest, which lists the others: ", code(facts.manifest, class_="hash"))
    yield element("p", facts.signature)
    rows = [(code(path), size_text(size), code(digest, class_="hash")) for path, digest, size in facts.files]
    listed = table(("file", "size", "sha256"), rows, "listing")
    if len(rows) <= OPEN:
        yield listed
    else:
        yield element("details", element("summary", f"All {len(rows)} files"), listed)
    made = ", ".join(f"{name} {version}" for name, version in facts.producer.items())
    weights = "" if facts.weights is None else f" A step reads {facts.weights:,} weights."
    yield element("p", joined((f"Made by {made}." if made else None, weights)), class_="soft")
