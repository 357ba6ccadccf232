"""Signed bundles: the parts that a signature covers, and the others."""

import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rnn_export.bundle import Bundle, open_bundle
from rnn_export.bundle.judgement import judge
from rnn_export.bundle.signature import SIGNATURE, Signature
from rnn_export.errors import Untrusted
from rnn_export.platform.installing import pip_install
from rnn_export.runtime import load

from ..messages import raises  # noqa: TID252
from ..native.command import invoke, refused  # noqa: TID252
from ..runtime.graphs import SUM  # noqa: TID252
from .hostile import data, rewritten, with_library, with_sources, with_torchscript

pytest.importorskip("cryptography", reason="the extra sign is not here")
pytestmark = pytest.mark.usefixtures("compiler", "elsewhere")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    assert invoke("keygen", tmp_path / "maker").exit_code == 0
    return tmp_path / "maker"


@pytest.fixture
def public(key: Path) -> Path:
    return key.with_name("maker.pub")


@pytest.fixture
def signed(tmp_path: Path, mark: Path, key: Path) -> Path:
    path = with_library(tmp_path / "m.rnnx", mark)
    done = invoke("sign", path, "--key", key)
    assert done.stdout == f"signed {path} with {key_of(path)}\n"
    assert "note: you vouch for c (fp32) for " in done.stderr
    return path


def key_of(path: Path) -> str:
    found = open_bundle(path).signature
    assert found is not None
    return found.key


def trust(public: Path) -> None:
    assert invoke("trust", public).exit_code == 0


def test_a_bundle_goes_to_a_machine_that_trusts_its_key(
    signed: Path, public: Path, mark: Path, elsewhere: Path
) -> None:
    with raises("code-not-trusted", f"the key that the bundle is signed with, {key_of(signed)}, is not tru"):
        load(signed, "native")
    assert not mark.exists()
    assert (
        invoke("trust", public).stdout
        == f"trusts {key_of(signed)}: code that it signed runs for this user ({elsewhere})\n"
    )
    assert load(signed).backend == "native"
    assert mark.exists()


def test_the_signature_is_over_the_bytes_of_the_manifest(signed: Path) -> None:
    bundle = open_bundle(signed)
    assert bundle.raw == (signed / "manifest.json").read_bytes()
    assert bundle.signature is not None
    assert bundle.signature.covers(bundle.raw)
    assert not bundle.signature.covers(bundle.raw + b"\n")


def test_what_was_changed_afterwards_is_not_signed(signed: Path, public: Path, mark: Path) -> None:
    trust(public)
    signature = (signed / SIGNATURE).read_bytes()
    bundle = open_bundle(signed)
    rewritten(bundle, **{"golden.npz": bundle.read("golden.npz") + b"\0"})
    assert open_bundle(signed).signature is None
    (signed / SIGNATURE).write_bytes(signature)
    with raises("code-not-trusted", "and the bundle was changed after it was signed"):
        load(signed, "native")
    said = refused(invoke("verify", signed, "--signed-by", public))
    assert said == f"{signed} was changed after it was signed with {public}: get it again, or sign it again."
    assert not mark.exists()


def test_a_signature_of_another_key_that_claims_to_be_this_one(
    signed: Path, public: Path, tmp_path: Path, mark: Path
) -> None:
    trust(public)
    mine = key_of(signed)
    assert invoke("keygen", tmp_path / "thief").exit_code == 0
    assert invoke("sign", signed, "--key", tmp_path / "thief").exit_code == 0
    forged = open_bundle(signed).signature
    assert forged is not None
    (signed / SIGNATURE).write_bytes(Signature(mine, forged.value).to_file())
    with raises("code-not-trusted", "was changed after it was signed"):
        load(signed, "native")
    assert not mark.exists()


def test_verify_signed_by(signed: Path, public: Path, mark: Path, tmp_path: Path) -> None:
    assert invoke("keygen", tmp_path / "other").exit_code == 0
    said = refused(invoke("verify", signed, "--signed-by", tmp_path / "other.pub"))
    other = (tmp_path / "other.pub").read_text().split()[1]
    assert said == f"{signed} is signed with the key {key_of(signed)}, not with {other} of {tmp_path / 'other.pub'}."
    bare = data(tmp_path / "bare.rnnx")
    assert refused(invoke("verify", bare, "--signed-by", public)).startswith(f"{bare} is not signed: rnn-export sign ")
    assert not mark.exists()
    done = invoke("verify", signed, "--signed-by", public, "--backend", "native")
    assert done.exit_code == 0, done.output
    assert mark.exists()
    with pytest.raises(Untrusted):
        load(signed, "native")


def test_build_drops_the_signature_and_what_it_vouched_for_stays_trusted(
    tmp_path: Path, mark: Path, key: Path, public: Path
) -> None:
    path = with_torchscript(tmp_path / "m.rnnx", mark)
    with_extra_sources(path, tmp_path)
    assert invoke("sign", path, "--key", key).exit_code == 0
    trust(public)
    done = invoke("build", path, "--target", "c")
    assert done.exit_code == 0, done.output
    assert (
        "note: the signature was of the bundle as it came, and is gone: before it goes elsewhere, rnn-export sign "
        in (done.stderr)
    )
    assert not (path / SIGNATURE).exists()
    bundle = open_bundle(path)
    assert {code.target for code in judge(bundle).trusted} == {"c", "torchscript"}
    assert judge(bundle).untrusted == ()
    assert load(path).backend == "native"
    said = refused(invoke("verify", path, "--signed-by", public))
    assert said.startswith(f"{path} is not signed")
    assert invoke("sign", path, "--key", key).exit_code == 0
    assert invoke("verify", path, "--signed-by", public).exit_code == 0


def with_extra_sources(path: Path, tmp_path: Path) -> None:
    """The bundle with a signer's own C, which is compiled as it is."""
    from rnn_export.bundle import extend_bundle

    other = open_bundle(with_sources(tmp_path / "other.rnnx", tmp_path / "signer-ran"))
    row = next(row for row in other.targets if row.target == "c")
    extend_bundle(open_bundle(path), row, {name: other.read(name) for name in row.files})


def test_an_untrusted_signature_vouches_for_nothing_after_a_build(tmp_path: Path, mark: Path, key: Path) -> None:
    path = with_torchscript(tmp_path / "m.rnnx", mark)
    assert invoke("sign", path, "--key", key).exit_code == 0
    assert invoke("build", path, "--target", "c").exit_code == 0
    bundle = open_bundle(path)
    assert {code.target for code in judge(bundle).trusted} == {"c"}
    assert {code.target for code in judge(bundle).untrusted} == {"torchscript"}
    assert not mark.exists()


def test_a_signed_bundle_in_a_repository_of_triton_stays_signed(signed: Path, tmp_path: Path) -> None:
    assert invoke("triton", signed, "-o", tmp_path / "repository").exit_code == 0
    assert (
        open_bundle(tmp_path / "repository" / "models" / "m" / "1" / "m.rnnx").signature
        == open_bundle(signed).signature
    )


def test_signing_keeps_every_file_and_replaces_a_signature(signed: Path, key: Path) -> None:
    before = contents(signed)
    assert invoke("sign", signed, "--key", key).exit_code == 0
    assert contents(signed) == before
    assert not [path for path in signed.parent.iterdir() if path.name.startswith(".")]


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


GOOD = "ed25519 " + "A" * 43 + "= " + "A" * 86 + "==\n"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", ("signature-malformed", "it is not one line")),
        (GOOD.replace("ed25519", "rsa").encode(), ("signature-malformed", "it is not one line")),
        (GOOD.strip().encode(), ("signature-malformed", "its signature is not 64 bytes in base64")),
        (GOOD.replace("A=", "A" * 4 + "=").encode(), ("signature-malformed", "it is not one line")),
        (GOOD.replace("A" * 86, "A" * 82).encode(), ("signature-malformed", "its signature is not 64 bytes")),
        (GOOD.encode() * 2, ("signature-malformed", "it is not one line")),
        (b"\xff" * 90, ("signature-malformed", "can't decode")),
        (b"x" * 2000, ("bundle-file-too-large", "manifest.sig", "1024")),
    ],
)
def test_a_signature_that_is_none(raw: bytes, message: tuple[str, ...], tmp_path: Path) -> None:
    path = data(tmp_path / "m.rnnx")
    (path / SIGNATURE).write_bytes(raw)
    with raises(*message):
        open_bundle(path)


def test_a_signature_of_a_point_that_is_none_covers_nothing(tmp_path: Path) -> None:
    path = data(tmp_path / "m.rnnx")
    (path / SIGNATURE).write_text(GOOD)
    bundle: Bundle = open_bundle(path)
    assert bundle.signature is not None
    assert not bundle.signature.covers(bundle.raw)


def test_the_signature_is_no_file_of_the_manifest(tmp_path: Path) -> None:
    with raises("manifest-unusable", "'manifest.sig' is the format's own"):
        SUM.write(tmp_path / "m.rnnx", **{"manifest.sig": b""})


def test_keys(key: Path, public: Path, tmp_path: Path) -> None:
    assert (stat.S_IMODE(key.stat().st_mode), stat.S_IMODE(public.stat().st_mode) & 0o022) == (0o600, 0)
    assert refused(invoke("keygen", key)) == f"{key} exists, and a key is never replaced: choose another name."
    path = data(tmp_path / "m.rnnx")
    assert refused(invoke("sign", path, "--key", public)) == (
        f"{public} is no private key in PEM without a password: make one, rnn-export keygen."
    )
    assert refused(invoke("sign", path, "--key", tmp_path / "none")).startswith(f"{tmp_path / 'none'} cannot be read: ")
    assert refused(invoke("trust", key)) == (
        f"{key} is no public key: `rnn-export keygen NAME` writes one as NAME.pub, a line of text."
    )
    assert open_bundle(path).signature is None


def test_openssl_reads_the_key_and_agrees(signed: Path, key: Path, tmp_path: Path) -> None:
    """Nobody needs this toolkit to check a signature."""
    import base64
    import shutil

    if shutil.which("openssl") is None:
        pytest.skip("openssl is not here")
    found = open_bundle(signed).signature
    assert found is not None
    (tmp_path / "sig").write_bytes(base64.b64decode(found.value))
    command = ["openssl", "pkeyutl", "-verify", "-inkey", str(key), "-rawin", "-in", str(signed / "manifest.json")]
    done = subprocess.run([*command, "-sigfile", str(tmp_path / "sig")], capture_output=True, text=True, check=False)
    assert "Signature Verified Successfully" in done.stdout, done.stderr


def test_without_cryptography_a_signed_bundle_counts_as_unsigned(
    signed: Path, key: Path, public: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust(public)
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    engine = load(signed)
    assert engine.backend == "onnxruntime"
    np.testing.assert_array_equal(engine.stream().step(np.ones(3, np.float32)), [1, 1, 1])
    assert "the bundle is signed with a trusted key, but signatures need cryptography" in engine.skipped_backends[0]
    assert pip_install("sign") in engine.skipped_backends[0]
    assert pip_install("sign") in refused(invoke("sign", signed, "--key", key))
    assert not mark.exists()
