"""`rnn-export trust`: run the code of a key's signed bundles."""

from pathlib import Path
from typing import Any

import click

from rnn_export.cli import console
from rnn_export.cli.main import command


@command
@click.argument("key", metavar="KEY.pub", type=click.Path(path_type=Path))
def trust_command(key: Path, as_json: bool) -> dict[str, Any]:
    """Trust KEY.pub: code in bundles that are signed with its private key runs for this user from now on.

    It becomes a line of this user's record, $XDG_DATA_HOME/rnn-export/trust or ~/.local/share/rnn-export/trust; removed
    there, it is trusted no more. For all users of a machine, root copies KEY.pub into /etc/rnn-export/trust.d; in a
    container or a service, RNN_EXPORT_TRUST names it, or several files and folders with : between them.
    """
    from rnn_export.platform.trusted_code import read_public_key, record_path, remember

    public = read_public_key(key)
    remember([f"ed25519 {public} {key.name}"])
    record = str(record_path()[0])
    if not as_json:
        console.say(f"trusts {public}: code that it signed runs for this user ({record})")
    return {"key": public, "record": record}
