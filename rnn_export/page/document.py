"""The whole page, in one file: no script, nothing from a network, and a policy that lets a browser load neither."""

import base64
import hashlib
from functools import cache
from importlib import resources

from rnn_export.contract.parity_json import worst_of_checks
from rnn_export.contract.spec import StreamSpec
from rnn_export.page.builds import builds_section, latency_section, size_text
from rnn_export.page.checks import checks_section, error_text
from rnn_export.page.facts import Facts
from rnn_export.page.picture import contract_picture
from rnn_export.page.standing import files_section, not_proven_section
from rnn_export.platform.markup import Html, code, element, joined, shape_text, table

SECTIONS = {
    "contract": "The contract",
    "checks": "How it was verified",
    "builds": "What was built",
    "latency": "What a step takes",
    "open": "What is not proven",
    "files": "Files, hashes, signature",
}
INSIDE = (
    "This copy lies in the bundle, was written together with it and is renewed by every build. It shows the other "
    "files' hashes, and neither its own nor a signature: rnn-export report NAME.rnnx makes a page that shows all of "
    "them, from the bundle as it is."
)


def document(facts: Facts) -> str:
    """The page of `facts`, all of whose values are text there, and nothing else."""
    head = element(
        "head", element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy()),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", f"{facts.name}: report"), Html(f"<style>{_style()}</style>"),
    )  # fmt: skip
    bodies = {
        "contract": _contract(facts.spec),
        "checks": joined(checks_section(facts.evidence)),
        "builds": builds_section(facts.builds),
        "latency": joined(latency_section(facts.timing)),
        "open": not_proven_section(facts),
        "files": joined(files_section(facts)),
    }
    sections = [
        element("section", element("h2", title), bodies[name], id=name, aria_label=title)
        for name, title in SECTIONS.items()
    ]
    links = [element("a", title, href=f"#{name}") for name, title in SECTIONS.items()]
    body = element(
        "body", element("header", *_front(facts), element("nav", *links, aria_label="Sections")),
        element("main", *sections),
        element("footer", element("p", INSIDE if facts.manifest is None else "Written by rnn-export report.")),
    )  # fmt: skip
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def policy() -> str:
    """Nothing is loaded, run or sent; of style only the page's own, by its hash."""
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"


@cache
def _style() -> str:
    lines = resources.files(__package__).joinpath("page.css").read_text().splitlines()
    return "\n".join(line.strip() for line in lines if line.strip())


def _front(facts: Facts) -> list[Html]:
    evidence, spec = facts.evidence, facts.spec
    worst = worst_of_checks(evidence) if evidence else []
    failed = [drift for drift in worst if drift["step"] is not None]
    verdict, kind = ("Verified", "good") if worst and not failed else ("Not verified", "bad")
    top = max((drift["relative"] for drift in worst), default=None)
    parts = dict.fromkeys(build.target for build in facts.builds)
    sentences = [
        ("verification", element("strong", verdict, class_=kind)),
        ("largest relative error", error_text(top) if worst else "unknown"),
        ("state of a stream", f"{spec.state_bytes:,} bytes"),
        ("delay", f"{spec.delay:,} frames" if spec.has_delay else "none"),
        ("built for", ", ".join(parts) or "nothing"),
        ("all files", size_text(sum(size for _, _, size in facts.files))),
    ]
    facts_list = element(
        "dl", *(element("div", element("dt", name), element("dd", value)) for name, value in sentences)
    )
    return [element("p", "rnn-export report", class_="kicker"), element("h1", facts.name), facts_list]


def _contract(spec: StreamSpec) -> Html:
    rows: list[tuple[object, ...]] = [("input", code(t.name), t.dtype, shape_text(t.shape)) for t in spec.inputs]
    rows += [("output", code(t.name), t.dtype, shape_text(t.shape)) for t in spec.outputs]
    for s in spec.states:
        start = "" if s.initial == "zeros" else element("small", "starts from a stored value")
        rows.append((element("div", f"state, {s.bytes:,} bytes", start), code(s.name), s.dtype, shape_text(s.shape)))
        rows += [
            (
                element("small", f"in {s.name}, from entry {part.offset}"),
                code(part.name),
                s.dtype,
                shape_text(part.shape),
            )
            for part in s.parts
        ]
    side = element(
        "div", table(("kind", "name", "dtype", "shape"), rows, "ports"), element("p", *_numbers(spec), class_="soft")
    )
    return element("div", element("figure", contract_picture(spec)), side, class_="group")


def _numbers(spec: StreamSpec) -> list[str]:
    """Facts that the picture lacks."""
    sentences = [f"A chunk is {spec.chunk:,} frame{'' if spec.chunk == 1 else 's'}."]
    if spec.rates_note:
        sentences.append(f"{spec.rates_note[0].upper()}{spec.rates_note[1:]}.")
    if spec.sample_rate:
        sentences.append(f"Frames are of a signal at {spec.sample_rate:,} Hz.")
    if spec.has_delay:
        sentences.append(f"{spec.delay_note[0].upper()}{spec.delay_note[1:]}.")
    if spec.rows:
        sentences.append("It takes one stream at a time.")
    if spec.max_frames:
        sentences.append(f"A stream has {spec.max_frames:,} frames at most.")
    if spec.digest:
        sentences.append(f"Snapshots fit wherever the digest is {spec.digest[:12]} at its start.")
    return [" ".join(sentences)]
