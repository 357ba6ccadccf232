"""Read and write weights: safetensors both ways, torch checkpoints in; never a pickle that could run code."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

from rnn_export.errors import SourceError
from rnn_export.platform.files import save_atomically

AnyPath = str | os.PathLike[str]
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt")


def save_weights(module: nn.Module, path: AnyPath) -> None:
    """Write every parameter and buffer of `module` to a `.safetensors` file, whole or not at all.

    Tensors that share memory (tied weights) are written once, as safetensors asks.

    Raises SourceError where `path` has another suffix or cannot be written, or a tensor of `module` is not dense.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise SourceError(
            f"{path} cannot be written: weights go to a .safetensors file.", id="weights-suffix-unwritable"
        )
    others = _not_dense(module.state_dict())
    if others:
        raise SourceError(
            f"{path} cannot be written: {', '.join(others)} of the module is no dense tensor.", id="weights-not-dense"
        )
    try:
        with save_atomically(path) as place:
            save_model(module, str(place))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise SourceError(f"{path} cannot be written: {error}", id="weights-not-written") from error


def load_weights(module: nn.Module, path: AnyPath) -> None:
    """Read a `.safetensors`, `.pt`, `.pth` or `.ckpt` file into `module`, every tensor of it and nothing else.

    One of torch's holds a dict of tensors, or such a dict under "state_dict"; it is read with `weights_only=True`.
    Of tensors that share memory one is enough. Values are cast to the module's dtype and device.
    On any error the module is what it was before.

    Raises SourceError where the file is missing, of another kind, unreadable or holds more than tensors; or its tensors
    are not the module's, in which case all missing, unexpected and unfitting keys are named.
    """
    path = Path(path)
    found = _read(path)
    expected = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    problems = [
        _listing("missing", _missing(expected, found)),
        _listing("unexpected", found.keys() - expected.keys()),
        _listing("unfitting", _unfitting(expected, found)),
    ]
    if any(problems):
        raise SourceError(
            f"{path} does not fit {type(module).__name__}: {'; '.join(filter(None, problems))}.",
            id="weights-do-not-fit",
        )
    module.load_state_dict(found, strict=False)


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix not in SUFFIXES:
        raise SourceError(
            f"{path} is not a weights file: it must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}.",
            id="weights-suffix-unknown",
        )
    if not path.is_file():
        raise SourceError(f"{path} is not there, or not a file.", id="weights-file-missing")
    try:
        data = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise SourceError(
            f"{path} cannot be read as tensors alone: it is damaged, or holds pickled code, which is never run. "
            f"Save module.state_dict() instead. ({reason})",
            id="weights-file-damaged",
        ) from error
    return _tensors(path, data)


def _tensors(path: Path, data: object) -> dict[str, Tensor]:
    if isinstance(data, dict) and isinstance(data.get("state_dict"), dict):
        data = data["state_dict"]
    if not isinstance(data, dict):
        raise SourceError(
            f"{path} holds a {type(data).__name__}, but must hold a dict of tensors.", id="weights-not-a-dict"
        )
    others = _not_dense(data)
    if others:
        raise SourceError(
            f"{path} must hold a dict of dense tensors, or one under 'state_dict', but {', '.join(others)} is none: "
            "save module.state_dict().",
            id="weights-dict-not-dense",
        )
    return data


def _not_dense(data: Mapping[str, object]) -> list[str]:
    return [repr(name) for name, value in data.items() if not (isinstance(name, str) and _is_dense(value))]


def _is_dense(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta and not value.is_quantized


def _missing(expected: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    filled = {_memory(expected[name]) for name in found.keys() & expected.keys() if _fills_memory(expected[name])}
    return [name for name in expected if name not in found and _memory(expected[name]) not in filled]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _fills_memory(tensor: Tensor) -> bool:
    return _memory(tensor) != 0 and tensor.nbytes == tensor.untyped_storage().nbytes()


def _unfitting(expected: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    return [
        f"{name} is {_describe(found[name])} but must be {_describe(tensor)}"
        for name, tensor in expected.items()
        if name in found and (found[name].shape != tensor.shape or not torch.can_cast(found[name].dtype, tensor.dtype))
    ]


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _listing(title: str, names: Iterable[str]) -> str:
    return f"{title}: {', '.join(sorted(names))}" if names else ""
