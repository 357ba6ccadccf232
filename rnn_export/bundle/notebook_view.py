"""A bundle as a notebook shows it: its contract, and its content."""

from rnn_export.bundle.manifest import Manifest
from rnn_export.contract.html_tables import contract_table
from rnn_export.platform.markup import Html, element, joined, table


def bundle_table(name: str, manifest: Manifest) -> Html:
    """Contract and targets of the bundle `name`, and how the rest of it is seen."""
    spec = manifest.spec
    rows = [
        (row.target, row.precision, len(row.files), f"{sum(manifest.files[path].bytes for path in row.files):,}")
        for row in manifest.targets
    ]
    return joined((
        element("div", element("b", name)),
        contract_table(spec.inputs, spec.outputs, spec.states, spec.summary),
        table(("target", "precision", "files", "bytes"), rows),
        element("div", "how it was verified: ", element("code", f"rnn_export.report({name!r})")),
    ))  # fmt: skip
