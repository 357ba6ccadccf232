"""Convert a torch step to LiteRT's file, in a process of its own (`rnn_export.apart`)."""

import io
import re
from collections.abc import Mapping
from typing import Any

from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import BackendUnavailable, BundleError, ExportError, first_line
from rnn_export.export.targets.litert.activation_ranges import ranges
from rnn_export.export.targets.litert.quantization import quantized
from rnn_export.export.targets.litert.tensor_names import named
from rnn_export.platform.arrays import unpack_arrays
from rnn_export.platform.installing import pip_install
from rnn_export.runtime.backends.litert.library import cause, new_interpreter
from rnn_export.runtime.backends.litert.model import FILE, check_model

ADVICE = "Leave litert out, or write that part of the model otherwise."
# What the converter says of operators that it cannot write: of torch's, and of those that it makes of them.
_NO_LOWERING = re.compile(r"Lowering not found: (?:torch\.ops\.)?([\w.]+)")
_ILLEGAL = re.compile(r"failed to legalize operation '([\w.]+)'|error: '([\w.]+)' op ")
_LONGEST = 400


def convert(files: Mapping[str, bytes], words: Mapping[str, Any]) -> dict[str, bytes]:
    """Each program NAME.pt2, which is of one stream, as NAME.tflite of the contract `words["specs"][NAME]`.

    In int8 if `words["precision"]` is that; with NAME.recording.npz, which starts from NAME.initial.npz, it has the
    scales of that recording. Raises ExportError if LiteRT refuses it.
    """
    made = {}
    for name, words_of in words["specs"].items():
        spec = StreamSpec.from_json(words_of)
        raw = _opened(named(converted(files[f"{name}.pt2"]), spec), spec)
        if words["precision"] == "int8":
            recording, known = files.get(f"{name}.recording.npz"), None
            if recording is not None:
                known = ranges(raw, spec, unpack_arrays(files[f"{name}.initial.npz"]), unpack_arrays(recording))
            raw = _opened(quantized(raw, known), spec)
        made[f"{name}.tflite"] = raw
    return made


def _opened(raw: bytes, spec: StreamSpec) -> bytes:
    """The same file, once it is of the contract and LiteRT opens it."""
    try:
        check_model(FILE, raw, spec)
        new_interpreter(raw, 1)
    except (BackendUnavailable, BundleError, RuntimeError, ValueError) as error:
        raise ExportError(
            f"the step as LiteRT's file is none that a bundle holds: {cause(error)} {ADVICE}", id="litert-file-unusable"
        ) from error
    return raw


def converted(program: bytes) -> bytes:
    """A saved program converted by litert-torch, without the names of the contract."""
    import torch

    try:
        import litert_torch
    except ImportError as error:
        raise BackendUnavailable(
            f"litert-torch is not here ({error}): {pip_install('export,litert-export')}.", id="litert-torch-missing"
        ) from error
    step = torch.export.load(io.BytesIO(program))
    try:
        # Without 64 bits a state or an id of int64 would be one of 32 bits, and nothing said.
        made = litert_torch.convert(step.module(), step.example_inputs[0], enable_x64=True)
        return bytes(made.model_content())
    except Exception as error:  # the converter has many kinds
        raise ExportError(
            f"litert-torch cannot take the step: {reason(str(error))}. {ADVICE}", id="litert-torch-refuses"
        ) from error


def reason(message: str) -> str:
    """The converter's message, with the operator that it is about first."""
    if unknown := _NO_LOWERING.search(message):
        return f"it has no operator for {unknown[1]}"
    if illegal := _ILLEGAL.search(message):
        return f"LiteRT has no operator for {illegal[1] or illegal[2]}"
    return first_line(ValueError(message))[:_LONGEST].removesuffix(".")
