"""Arrays in and out of `.npz` bytes: reproducible on the way out, bounded and without pickles on the way in."""

import io
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]

# What the arrays of a file may unpack to: so many bytes, or where it is larger so many times its own size.
UNPACKED, UNPACKED_TIMES = 64 * 2**20, 100
# Of more values than 10,000 numpy's BLAS asks other threads for help.
DOT = 8192


def all_finite(array: Array) -> bool:
    """True if no value is NaN or infinite."""
    flat = array.reshape(-1)
    if flat.dtype.char in "fd" and _squares_finite(flat):
        return True
    # A NaN is the largest and the smallest of all.
    return not len(flat) or (math.isfinite(np.maximum.reduce(flat)) and math.isfinite(np.minimum.reduce(flat)))


def _squares_finite(flat: Array) -> bool:
    """True if the squares have a finite sum, and so every value is finite: one pass, in a third of two's time."""
    # The product warns of what is over the largest value.
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(flat), DOT):
            part = flat[start : start + DOT]
            if not math.isfinite(part.dot(part)):
                return False
    return True


def has_nan(array: Array) -> bool:
    """True if a value is NaN, which is then the largest of all."""
    return array.dtype.kind == "f" and array.size > 0 and math.isnan(np.maximum.reduce(array.reshape(-1)))


def is_masked(x: Any) -> bool:
    """True if `x`, or an array in a list of them, has a mask, which numpy would silently leave out."""
    if isinstance(x, list | tuple):
        return bool(x) and isinstance(x[0], np.ndarray) and any(map(is_masked, x))
    return isinstance(x, np.ma.MaskedArray)


def pack_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Arrays as the bytes of an `.npz` file: the same bytes for the same arrays, under any name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            # A ZipInfo of its own carries a fixed date, where a name alone would carry today's.
            member = zipfile.ZipInfo(f"{name}.npy")
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
    return buffer.getvalue()


def unpack_arrays(raw: bytes) -> dict[str, npt.NDArray[Any]]:
    """Read an `.npz` file.

    Raises ValueError, and nothing else, on damage, pickles, files not of numpy, or more bytes than such a file unpacks
    to.
    """
    with _door(), zipfile.ZipFile(io.BytesIO(raw)) as archive:
        members = archive.infolist()
        _check_members(members, max(UNPACKED, UNPACKED_TIMES * len(raw)))
        return {member.filename.removesuffix(".npy"): _member(archive, member) for member in members}


def unpack_array(raw: bytes) -> npt.NDArray[Any]:
    """Read an `.npy` file; raises ValueError, and nothing else, as `unpack_arrays` does."""
    with _door():
        return _array(raw, "it")


@contextmanager
def _door() -> Iterator[None]:
    try:
        yield
    except ValueError:
        raise
    except Exception as error:  # zip, zlib, Python's parser of headers and numpy each have their own
        raise ValueError(str(error) or f"it is damaged ({type(error).__name__})") from error


def _check_members(members: Sequence[zipfile.ZipInfo], most: int) -> None:
    total = sum(member.file_size for member in members)
    if total > most:
        raise ValueError(f"it unpacks to {total} bytes, over the limit of {most}")
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise ValueError("it is compressed in another way than numpy does, which cannot be unpacked within bounds")
    names = [member.filename for member in members]
    if len(set(names)) < len(names) or not all(name.endswith(".npy") for name in names):
        raise ValueError(f"its members must be different .npy files, but are {names}")


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> npt.NDArray[Any]:
    with archive.open(member) as file:
        # Without the size, zipfile inflates up to 2 GiB before it finds that the member says less.
        return _array(file.read(member.file_size), member.filename)


def _array(raw: bytes, name: str) -> npt.NDArray[Any]:
    """Do what `np.load` does, but allocate and unpickle nothing on the word of a header alone."""
    stream, npy = io.BytesIO(raw), np.lib.format
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name} has .npy version {version}, not (1, 0) or (2, 0)")
    shape, fortran, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(stream)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects, which would have to be unpickled: that can run foreign code")
    if dtype.kind not in "biufU":
        raise ValueError(f"{name} is of dtype {dtype}, which is neither numbers nor text")
    start = stream.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(raw) - start:
        raise ValueError(f"{name} says {dtype}{shape}, but {len(raw) - start} bytes follow")
    if start == len(raw):
        return np.zeros(shape, dtype)
    return np.frombuffer(raw, dtype, offset=start).reshape(shape, order="F" if fortran else "C").copy()
