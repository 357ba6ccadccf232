"""`rnn-export sign`: the maker vouches for a bundle."""

from pathlib import Path
from typing import Any

import click

from rnn_export.cli import console
from rnn_export.cli.main import command
from rnn_export.cli.words import BUNDLE


@command
@click.argument("bundle", type=BUNDLE)
@click.option("--key", required=True, type=click.Path(path_type=Path), help="The private key, as keygen writes one.")
def sign_command(bundle: Path, key: Path, as_json: bool) -> dict[str, Any]:
    """Sign BUNDLE, all that is in it, in place of any signature that it has.

    Machines that trust the key run its code: libraries, TorchScript, engines, and C that `build` compiles. Whatever is
    built into it later is not signed: sign it again then. Code in it that was not made here is named: you vouch for it.
    """
    from rnn_export.bundle import open_bundle
    from rnn_export.bundle.judgement import judge
    from rnn_export.bundle.signature import sign
    from rnn_export.bundle.writing import sign_bundle

    opened = open_bundle(bundle)
    signature = sign(opened.raw, key)
    sign_bundle(opened, signature)
    strange = judge(opened).untrusted
    for code in strange:
        console.note(f"you vouch for {code.title}, which is not known to be made here")
    if not as_json:
        console.say(f"signed {bundle} with {signature.key}")
    return {"bundle": str(bundle), "key": signature.key, "not_made_here": [code.title for code in strange]}
