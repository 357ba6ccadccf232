"""The kernels over rows: every GPU of the target table has an assembler that takes them. None of them is run."""

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from rnn_export.contract.target_table import TARGETS
from rnn_export.runtime.device.kernels import BLOCKS, FLOAT_BITS, copier, flagger, grid, ptx

KERNELS = {"gather_u32", "gather_u8", "scatter_u32", "scatter_u8", *(f"nan_{kind}" for kind in FLOAT_BITS)}


@pytest.fixture(scope="module")
def assemblers() -> list[str]:
    """Every ptxas: that of the wheel knows older GPUs than that of a newer CUDA, and not the newest."""
    package = find_spec("nvidia")
    folders = (package and package.submodule_search_locations) or ()
    wheels = [path for folder in folders for path in Path(folder).glob("*/bin/ptxas")]
    found = [str(path) for path in (*wheels, shutil.which("ptxas")) if path]
    if not found:
        pytest.skip("ptxas is not here: pip install nvidia-cuda-nvcc-cu12")
    return found


def assemble(ptxas: str, compute: str, text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    source = folder / "rows.ptx"
    source.write_text(text)
    command = [ptxas, "-Werror", f"-arch=sm_{compute.replace('.', '')}", "-o", folder / "rows.cubin", source]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("compute", sorted({c for row in TARGETS.values() for c in row.compute}))
def test_every_gpu_takes_the_kernels(assemblers, compute, tmp_path):
    knowing = 0
    for ptxas in assemblers:
        done = assemble(ptxas, compute, ptx(), tmp_path)
        if "is not defined for option 'gpu-name'" in done.stderr:
            continue
        knowing += 1
        assert done.returncode == 0, done.stderr
        kernels = set(re.findall(rb"\.text\.(\w+)", (tmp_path / "rows.cubin").read_bytes()))
        assert {name.decode() for name in kernels} == KERNELS
    if not knowing:
        pytest.skip(f"no ptxas here has compute capability {compute}: {', '.join(assemblers)}")


def test_an_assembler_would_say_what_is_wrong(assemblers, tmp_path):
    # A pointer of 32 bits.
    broken = ptx().replace("mad.wide.u32 %at, %j", "mad.lo.u32 %at, %j")
    for ptxas in assemblers:
        done = assemble(ptxas, "8.6", broken, tmp_path)
        assert done.returncode
        assert "Arguments mismatch for instruction 'mad.lo'" in done.stderr


def test_a_kernel_goes_by_the_width_of_a_row():
    assert copier("gather", 12) == ("gather_u32", 3)
    assert copier("scatter", 6) == ("scatter_u8", 6)
    assert flagger("float64", 24) == ("nan_float64", 3)
    assert flagger("bfloat16", 6) == ("nan_bfloat16", 3)


@pytest.mark.parametrize("units", [1, 32, 33, 256, 257, 5000, 2**26])
def test_a_grid_has_a_thread_for_every_unit_or_goes_on(units):
    (count, along, _), (threads, *_) = grid(7, units)
    assert count == 7
    assert threads % 32 == 0
    assert along <= BLOCKS
    assert along * threads >= units or along == BLOCKS
    # No block without work.
    assert (along - 1) * threads < units
