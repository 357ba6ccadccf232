"""`rnn-export keygen`: a pair of keys to sign bundles with."""

from pathlib import Path
from typing import Any

import click

from rnn_export.cli import console
from rnn_export.cli.main import command


@command
@click.argument("name", type=click.Path(path_type=Path))
def keygen_command(name: Path, as_json: bool) -> dict[str, Any]:
    """Write a private key to the file NAME, for you alone, and its public key to NAME.pub, for everybody (Ed25519).

    With NAME you sign bundles (`rnn-export sign`); a machine that was told to trust NAME.pub (`rnn-export trust`) runs
    the code in them. NAME has no password: keep it where nobody else can read it.
    """
    from rnn_export.bundle.signature import make_key

    public_path, public = make_key(name)
    if not as_json:
        console.say(
            f"wrote {name}, which signs: keep it to yourself; and {public_path}, to be trusted elsewhere: {public}"
        )
    return {"private": str(name), "public": str(public_path), "key": public}
