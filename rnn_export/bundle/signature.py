"""manifest.sig: who vouches for a bundle. Ed25519 (RFC 8032) over the raw bytes of manifest.json.

`cryptography`, of the extra `sign`, is imported where something is signed or a signature is checked.
"""

import base64
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rnn_export.errors import TrustError
from rnn_export.platform import host
from rnn_export.platform.installing import pip_install
from rnn_export.platform.trusted_code import is_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNATURE = "manifest.sig"
LIMIT = 1024


@dataclass(frozen=True)
class Signature:
    """A public key and its signature of a manifest (64 bytes), in base64."""

    key: str
    value: str

    def to_file(self) -> bytes:
        return f"ed25519 {self.key} {self.value}\n".encode()

    @staticmethod
    def from_file(raw: bytes) -> "Signature":
        """Read what `to_file` wrote; raises ValueError."""
        kind, *parts = raw.decode("ascii").removesuffix("\n").split(" ")
        if kind != "ed25519" or len(parts) != 2 or not is_key(parts[0]):
            raise ValueError("it is not one line `ed25519 KEY SIGNATURE`")
        found = Signature(*parts)
        if len(base64.b64decode(found.value, validate=True)) != 64 or found.to_file() != raw:
            raise ValueError("its signature is not 64 bytes in base64")
        return found

    def covers(self, manifest: bytes) -> bool:
        """True if the key signed these bytes; raises TrustError where `cryptography` is not here."""
        try:
            from cryptography.exceptions import InvalidSignature
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        except ImportError as error:
            raise _missing(error) from error
        try:
            public = Ed25519PublicKey.from_public_bytes(base64.b64decode(self.key))
            public.verify(base64.b64decode(self.value), manifest)
        except (InvalidSignature, ValueError):
            return False
        return True


def make_key(path: Path) -> tuple[Path, str]:
    """Write a new private key, for its owner alone, and beside it `path`.pub, which is given with its key in base64.

    Raises TrustError where one of them is there or cannot be written.
    """
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise _missing(error) from error
    private, public_path = Ed25519PrivateKey.generate(), path.with_name(f"{path.name}.pub")
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    public = _public(private)
    for place, mode, data in (
        (path, 0o600, private.private_bytes(*form)),
        (public_path, 0o644, f"ed25519 {public} {path.name}\n".encode()),
    ):
        try:
            with os.fdopen(os.open(place, host.CREATE, mode), "wb") as file:
                file.write(data)
        except FileExistsError as error:
            raise TrustError(
                f"{place} exists, and a key is never replaced: choose another name.", id="key-exists"
            ) from error
        except OSError as error:
            raise TrustError(f"{place} cannot be written: {error.strerror or error}.", id="key-not-written") from error
    return public_path, public


def sign(manifest: bytes, key: Path) -> Signature:
    """The signature of the bytes of a manifest by the private key in the file `key`; raises TrustError."""
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError as error:
        raise _missing(error) from error
    try:
        private = load_pem_private_key(key.read_bytes(), None)
    except OSError as error:
        raise TrustError(f"{key} cannot be read: {error.strerror or error}.", id="key-unreadable") from error
    except (ValueError, TypeError) as error:
        raise TrustError(
            f"{key} is no private key in PEM without a password: make one, rnn-export keygen.", id="key-not-private"
        ) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise TrustError(
            f"{key} is a key of another kind than Ed25519: make one, rnn-export keygen.", id="key-not-ed25519"
        )
    return Signature(_public(private), base64.b64encode(private.sign(manifest)).decode())


def _public(private: "Ed25519PrivateKey") -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return base64.b64encode(private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


def _missing(error: ImportError) -> TrustError:
    return TrustError(
        f"signatures need cryptography, which cannot be imported ({error}): {pip_install('sign')}.",
        id="cryptography-missing",
    )
