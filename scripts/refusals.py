"""Refusals of lifting and export that no test has met: read after `./scripts/test`, whose processes record theirs.

rm -r .cache/refusals; ./scripts/test; python scripts/refusals.py

Those of `NETS` are left out: what refuses sooner is under test, or no process that counts meets them.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from rnn_export import errors

ROOT = Path(__file__).resolve().parents[1]
KINDS = {n for n, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.LiftError)}
KINDS.add("ExportError")
SOONER = "a net: what would come here is refused sooner, by rows, runs or the search of axes"
CONVERTER = "a net under a library that writes or checks what it is given: no step is known on which it fails so"
MISSING = "a package is missing, which none is where tests run"
# By file, and words of the message: why no test's process meets it.
NETS = {
    (
        "export/lift/states/module_state.py",
        "in a way that was not followed",
    ): "a memory behind more memories than there are rounds",
    ("export/lift/capture.py", "the model fails on sequences of each length tried"): SOONER,
    ("export/lift/capture.py", "BoundedAxis(port, axis, frames, ELSE)"): "one of three tries, of which another is told",
    ("export/lift/rewrite/complex_pairs.py", "TRANSFORM_OF_WINDOWS"): SOONER,
    ("export/lift/streaming/stream_states.py", "differs between the rows of a batch"): SOONER,
    ("export/graph/step.py", "an axis that must be dynamic"): SOONER,
    ("export/graph/passes/rounding.py", "has weights or channels that are computed"): SOONER,
    ("export/verify/reference.py", "were found to be its length"): SOONER,
    ("export/graph/translation.py", "that goes both ways"): "met inside of torch.onnx, and raised again",
    ("export/planning.py", "cannot be imported here"): "met in a process of its own",
    ("export/triton/repository.py", "was replaced meanwhile"): "a bundle is replaced while it is read",
    ("export/triton/repository.py", "say which, --precision P"): "no export writes several precisions without fp32",
    ("export/from_onnx/boundary.py", "as a step is no valid ONNX"): CONVERTER,
    ("export/from_onnx/boundary.py", "cannot be converted from opset"): CONVERTER,
    ("export/targets/torch_step/aten_step.py", "needs torch, which is not here"): MISSING,
    ("export/targets/torch_step/aten_step.py", "torch.export cannot follow the step"): CONVERTER,
    ("export/targets/c/int8_calibration.py", "calibration runs the step on onnxruntime"): MISSING,
    ("export/targets/coreml/writer.py", "which Core ML does not compute in"): SOONER,
    ("export/targets/coreml/writer.py", "is none that a bundle holds"): CONVERTER,
    ("export/targets/coreml/coreml_conversion.py", "coremltools is not here"): MISSING,
    ("export/targets/coreml/coreml_conversion.py", "coremltools {ct.__version__}"): CONVERTER,
    ("export/targets/coreml/mil_interpreter.py", "which nothing here can verify"): CONVERTER,
    ("export/targets/coreml/mil_interpreter.py", "in numpy where coremltools says"): CONVERTER,
    ("export/targets/coreml/mil_program.py", "cannot be traced for Core ML"): CONVERTER,
    ("export/targets/openvino/ir_conversion.py", "cannot read the step"): CONVERTER,
    ("export/targets/openvino/ir_conversion.py", "cannot take the step for"): CONVERTER,
    ("export/targets/executorch/pte_conversion.py", "does not run"): CONVERTER,
    ("export/targets/executorch/pte_conversion.py", "is none that a bundle holds"): CONVERTER,
    ("export/targets/litert/tflite_conversion.py", "is none that a bundle holds"): CONVERTER,
    ("export/targets/litert/tflite_conversion.py", "litert-torch cannot take the step"): CONVERTER,
    ("export/targets/litert/quantization.py", "ai-edge-quantizer is not here"): MISSING,
    ("export/targets/torchscript/writer.py", "cannot be said in TorchScript"): CONVERTER,
}


def refusals() -> Iterator[tuple[str, range, str]]:
    """Each place under export/ that makes an error: its file, its lines, and how it stands there."""
    for path in sorted((ROOT / "export").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
                lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                yield path.relative_to(ROOT).as_posix(), lines, ast.unparse(node)


def net_of(file: str, call: str) -> tuple[str, str] | None:
    """The entry of `NETS` that is about a refusal."""
    return next(((f, words) for f, words in NETS if f == file and words in call), None)


def met() -> set[tuple[str, int]]:
    lines = (line for file in (ROOT / ".cache" / "refusals").iterdir() for line in file.read_text().splitlines())
    places = (line.rpartition(":") for line in lines)
    return {(Path(file).resolve().relative_to(ROOT).as_posix(), int(n)) for file, _, n in places if _ours(file)}


def _ours(file: str) -> bool:
    return Path(file).resolve().is_relative_to(ROOT)


if __name__ == "__main__":
    found, made = list(refusals()), met()
    unmet = [(file, lines, call) for file, lines, call in found if not any((file, n) in made for n in lines)]
    nets = [net_of(file, call) for file, _, call in unmet]
    for (file, lines, _), net in zip(unmet, nets, strict=True):
        if net is None:
            sys.stdout.write(f"{file}:{lines.start}\n")
    named = {net_of(file, call) for file, _, call in found}
    for file, words in NETS:
        if (file, words) not in named:
            sys.stdout.write(f"{file}: nothing there says {words!r} any more\n")
    count = f"{len(found) - len(unmet)} of {len(found)} refusals were met"
    sys.stdout.write(f"{count}, {sum(net is not None for net in nets)} are nets by their reasons\n")
