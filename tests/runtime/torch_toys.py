"""Models of `graphs` in torch's operators, and as TorchScript in bundles that were never written."""

import io

import torch
from torch import Tensor, nn

from rnn_export.bundle.draft import Draft
from rnn_export.export.targets.torch_step.aten_step import example
from rnn_export.platform.quiet import quiet

from .graphs import MODELS, Model

STEP = "targets/torchscript-fp32/step.pt"


class Toy(nn.Module):
    """The nodes of a model in torch's operators: (inputs..., states...) -> (outputs..., next states...)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.constants = model.named()

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        spec = self.model.spec
        values = dict(zip([*(t.name for t in spec.inputs), *(s.input for s in spec.states)], given, strict=True))
        for op, inputs, (output,), attributes in self.model.step:
            values[output] = self.value(op, [values.get(name, name) for name in inputs], attributes.get("axis", 0))
        return tuple(values[name] for name in [*(t.name for t in spec.outputs), *(s.output for s in spec.states)])

    def value(self, op: str, args: list[Tensor | str], axis: int) -> Tensor:
        first, second = ([*args, None])[:2]
        if op == "Gather" and isinstance(second, Tensor):
            return torch.from_numpy(self.constants[first])[second]
        if op in ("Add", "Sub", "Mul"):
            other = second if isinstance(second, Tensor) else torch.as_tensor(self.constants[second])
            return getattr(torch, op.lower())(first, other)
        return {
            "Identity": lambda: first,
            "CumSum": lambda: first.cumsum(int(self.constants[second])),
            "Unsqueeze": lambda: first.unsqueeze(int(self.constants[second][0])),
            "Gather": lambda: first.select(axis, int(self.constants[second])),
            "Slice": lambda: first[:, 1 :: int(self.constants[args[-1]][0])],
        }[op]()


def torchscript_draft(name: str) -> Draft:
    """A model with its step."""
    model, file = MODELS[name], io.BytesIO()
    with quiet():
        traced = torch.jit.trace(Toy(model), example(model.spec, 2))
    torch.jit.save(traced, file, _extra_files={"rnn_export.spec": model.spec.dumps()})
    return model.draft("torchscript", {STEP: file.getvalue()})
