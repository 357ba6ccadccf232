"""The command `build` on bundles of real models, and checks of its results."""

from pathlib import Path

from click.testing import CliRunner, Result

from rnn_export.bundle import open_bundle
from rnn_export.cli.main import main
from rnn_export.runtime.backends.native.cpu import host_triple

from ..stages import without_stages  # noqa: TID252

TRIPLE = host_triple()
ARM = "aarch64-linux-gnu"
AARCH64 = ("aarch64-linux-gnu-gcc", "qemu-aarch64")
CORTEX_M = ("arm-none-eabi-gcc", "qemu-system-arm")
PLACE = "targets/c-fp32"


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def build(bundle: Path, *options: object) -> Result:
    return invoke("build", bundle, "--target", "c", *options)


def refused(result: Result, code: int = 1) -> str:
    """The message of a command that ended in one clear error."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    said = without_stages(result.stderr)
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said.removeprefix("error: ").rstrip()


def folders(bundle: Path, precision: str = "fp32") -> set[str]:
    """The machines that it is compiled for."""
    row = open_bundle(bundle).target("c", precision)
    assert row is not None
    return {path.split("/")[-2] for path in row.files if "/build/" in path}


def unchanged(bundle: Path, before: bytes) -> None:
    assert (bundle / "manifest.json").read_bytes() == before
    open_bundle(bundle)
