"""`rnn-export verify`: the golden vectors of a bundle, replayed on this machine."""

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from rnn_export.cli import console
from rnn_export.cli.main import command, refuse_address
from rnn_export.cli.options import trust_option
from rnn_export.cli.voice import stages
from rnn_export.cli.words import BACKEND, BUNDLE_OR_ADDRESS, PRECISION
from rnn_export.contract.choices import BackendName, Precision, ServerAddress

STAGES = 7


@command
@click.argument("bundle", type=BUNDLE_OR_ADDRESS)
@click.option(
    "--backend",
    type=BACKEND,
    default="auto",
    show_default=True,
    help="Which backend to hold to the golden vectors; or servers that run BUNDLE, grpc://HOST:PORT/NAME.",
)
@click.option("--precision", type=PRECISION, help="Which precision, where the bundle has several.")
@click.option("--device", help="cpu, cuda or cuda:N.  [default: that of the backend]")
@click.option(
    "--signed-by",
    type=click.Path(path_type=Path),
    metavar="KEY.pub",
    help="BUNDLE must be signed with this key, which is trusted for this once.",
)
@click.option(
    "--metric",
    metavar="FILE.py:FN",
    help="A function of the outputs of the model and of the stream here that gives figures of your task, or False.",
)
@trust_option
def verify_command(
    bundle: str, backend: BackendName | ServerAddress, precision: Precision | None, device: str | None,
    signed_by: Path | None, metric: str | None, trust: bool, as_json: bool,
) -> dict[str, Any]:  # fmt: skip
    """Replay the golden vectors of BUNDLE on this machine: the proof that it does here what the model did.

    With the address of servers as --backend, the proof that they do. The golden vectors are of BUNDLE itself: who made
    it is what --signed-by says. FN gets two arrays (rows, frames, ...), or two dicts of them by output where there are
    several, and gives a number or a dict of numbers; False, or an assert that fails, is exit code 3.

    Where the library of a backend computes in less than fp32 by itself, it is tried so too, and what comes of it is
    told and held to nothing.
    """
    from rnn_export.bundle import open_bundle
    from rnn_export.bundle.judgement import check_signature
    from rnn_export.cli.functions import find_metric
    from rnn_export.platform.threads import one_thread_each
    from rnn_export.platform.trusted_code import read_public_key
    from rnn_export.runtime.engine import Engine
    from rnn_export.runtime.replay.checks import replay_golden
    from rnn_export.runtime.replay.figures import task_figures
    from rnn_export.runtime.replay.golden import FILE, Golden

    refuse_address(bundle, f" rnn-export verify NAME.rnnx --backend {bundle} holds the servers to its golden vectors.")
    function = None if metric is None else find_metric(metric)
    opened = open_bundle(bundle)
    if signed_by is not None:
        check_signature(opened, read_public_key(signed_by), signed_by)
    engine = Engine.of(opened, backend, precision, device, trust=trust or signed_by is not None)
    console.skipped_backends(engine)
    # Only torch's own backend has threads of the process; the others have their own number.
    limit = one_thread_each() if "torch" in sys.modules else nullcontext()
    with limit, stages("verify", STAGES) as stage:
        golden = Golden.from_arrays(opened.arrays(FILE), opened.spec)
        report = replay_golden(engine, golden, stage)
        if function is not None and report.ok:
            report = replace(report, figures=task_figures(engine, golden, function))
        usual = engine.by_default()
        by_default = None if usual is None else replay_golden(usual, golden).to_json()
    if not as_json:
        console.parity(report.to_json())
        console.by_default(by_default)
    report.raise_for_failure("This bundle does not do here what the model did: do not use it on this backend.")
    if not as_json:
        console.verdict(report.to_json())
    return {**report.to_json(), "by_default": by_default}
