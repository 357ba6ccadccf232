"""Models written by hand as bundles for OpenVINO."""

from pathlib import Path

from rnn_export.export.targets.openvino.ir_conversion import convert
from rnn_export.platform.arrays import pack_arrays

from .graphs import Model

FOLDER = "targets/openvino-fp32"


def converted(model: Model) -> dict[str, bytes]:
    """The files of the target, by path in a bundle; in this process, which is quicker."""
    given = {"step.onnx": model.files()["step.onnx"], "initial.npz": pack_arrays(model.initial)}
    made = convert(given, {"spec": model.spec.to_json(), "precision": "fp32"})
    return {f"{FOLDER}/{name}": data for name, data in made.items()}


def with_openvino(path: Path, model: Model, **changes: bytes) -> Path:
    """The bundle of `model` with IR; `changes` are files of it by the name without an end, written in its place."""
    files = converted(model)
    files |= {name: changes[Path(name).stem] for name in files if name.endswith(".xml") and Path(name).stem in changes}
    return model.with_target(path, "openvino", files)
