"""The target table: every target that can be written, with its devices, opset and precisions."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rnn_export.contract.machine_names import answer
from rnn_export.contract.precision import GRAPH_PRECISIONS, PRECISIONS, precisions_of_gpu
from rnn_export.errors import ExportError


@dataclass(frozen=True)
class JetPack:
    """A release of NVIDIA's software for Jetson modules, and whether its Python (3.10 or later) runs this toolkit."""

    name: str
    tensorrt: str
    cuda: str
    builds: bool

    def __str__(self) -> str:
        return f"{self.name} (TensorRT {self.tensorrt})"


@dataclass(frozen=True)
class Target:
    """One row: a kind of artefact. Adding a target is adding a row and a folder of `export/targets` with its writer.

    Attributes:
        opset, opsets: the usual one; the lowest and the highest. None where there is no ONNX graph.
        backend: its backend here, of `rnn_export.runtime.registry`; empty where this toolkit has none for it.
        is_data: True if it is interpreted and held to the contract when it is loaded, so that it runs untrusted.
        library: the builder of its engines: "tensorrt", "tensorrt-rtx" or None.
        min_version: the oldest version of `library` that must take the files, where no JetPack says it.
        compute: compute capabilities of the GPUs; empty where any will do.
        jetpacks: the JetPacks that are served, the oldest first.
        memory: GiB of the variants of a module, shared by CPU and GPU.
        needs: requirements to write it, beside the extra export or onnx, and to run it.
        ran: where the tests run it, and where it was never run.
        cannot: its limitations, in short; the rest stands on its page.
        from_torch: why it is written from a PyTorch module alone; empty where it is written from a step in ONNX too.
    """

    name: str
    summary: str
    checked: str
    precisions: tuple[str, ...] = ("fp32",)
    backend: str = ""
    is_data: bool = False
    opset: int | None = None
    opsets: tuple[int, int] | None = None
    library: str | None = None
    min_version: str = ""
    compute: tuple[str, ...] = ()
    jetpacks: tuple[JetPack, ...] = ()
    memory: tuple[int, ...] = ()
    from_torch: str = ""
    needs: str = ""
    ran: str = ""
    cannot: str = ""

    @property
    def folder(self) -> str:
        """The folder of `rnn_export.export.targets` that has its writer."""
        return "tensorrt" if self.library else self.name.removesuffix("-portable")

    @property
    def page(self) -> str:
        """The page of the documentation that it stands on."""
        return f"docs/targets/{'tensorrt' if self.library else PAGES.get(self.name, self.name)}.md"

    @property
    def on_device(self) -> bool:
        """True if an engine runs only where it was built: the graph and the recipe travel."""
        return self.library == "tensorrt"

    @property
    def builds(self) -> bool:
        """True if this toolkit builds and runs an engine there; if not, the graph comes with a trtexec line."""
        return self.library is not None and (not self.jetpacks or any(j.builds for j in self.jetpacks))

    def min_version_for(self, precision: str = "fp32") -> str:
        """The oldest version of `library` that must take a graph in `precision`; empty where none does."""
        return min((v for v in self._versions() if self._has(v, precision)), key=version_key, default="")

    def unsupported_reason(self, precision: str) -> str:
        """Why the row has no such `precision`, by hardware and library; empty where neither is the reason."""
        reasons = [
            f"its GPU (compute capability {compute}) computes in {', '.join(precisions_of_gpu(compute))}"
            for compute in self.compute
            if precision not in precisions_of_gpu(compute)
        ]
        versions = self._versions()
        if versions and not self.min_version_for(precision):
            first = _first_tensorrt(precision)
            reasons.append(f"its TensorRT {versions[-1]} has no {precision}, which came with {first}")
        return ", and ".join(reasons)

    @property
    def note(self) -> str:
        """Facts that are not obvious from the rest of the row."""
        notes = []
        if without := ", ".join(j.name for j in self.jetpacks if not j.builds):
            notes.append(f"JetPack {without}: the ONNX graph and a trtexec line only, its Python is older than 3.10")
        for precision in self.precisions:
            first = next((j.name for j in self.jetpacks if self._has(j.tensorrt, precision)), None)
            if _first_tensorrt(precision) and first and self.jetpacks[0].name != first:
                notes.append(f"{precision} from JetPack {first} on")
        if self.builds and self.on_device:
            notes.append("an engine is built on the machine that runs it")
        if not self.on_device and self.library:
            notes.append("an engine is built ahead of time, without a GPU")
        return "; ".join(notes)

    def _versions(self) -> list[str]:
        served = [j for j in self.jetpacks if j.builds] or self.jetpacks
        return [j.tensorrt for j in served] or [self.min_version] * bool(self.min_version)

    def _has(self, version: str, precision: str) -> bool:
        first = _first_tensorrt(precision) if self.library == "tensorrt" else ""
        return not first or version_key(version) >= version_key(first)


def _first_tensorrt(precision: str) -> str:
    """The first version that has a precision where not all do; empty otherwise."""
    return PRECISIONS[precision].tensorrt_since if precision in PRECISIONS else ""


def version_key(version: str) -> tuple[int, ...]:
    """The sort key of versions such as "10.3"."""
    return tuple(map(int, version.split(".")))


JETPACK_4 = JetPack("4.6.1", tensorrt="8.2", cuda="10.2", builds=False)
JETPACK_5 = JetPack("5.1", tensorrt="8.5", cuda="11.4", builds=False)
JETPACK_6 = (
    JetPack("6.0", tensorrt="8.6", cuda="12.2", builds=True),
    JetPack("6.1", tensorrt="10.3", cuda="12.6", builds=True),
    JetPack("6.2", tensorrt="10.3", cuda="12.6", builds=True),
)
JETPACK_7 = (
    JetPack("7.0", tensorrt="10.13", cuda="13.0", builds=True),
    JetPack("7.1", tensorrt="10.13", cuda="13.0", builds=True),
)
JETPACK_7_2 = JetPack("7.2", tensorrt="10.16", cuda="13.2", builds=True)
ORIN = (*JETPACK_6, JETPACK_7_2)

COMPILED = "in a closed loop as this machine compiles it against the model; elsewhere by its self-test"
WASMTIME = "in a closed loop on wasmtime against the model, with vectors and without; elsewhere by its self-test"
CLOSED_LOOP = "in a closed loop in its own precision on the CPU against the model"
ON_DEVICE = f"{CLOSED_LOOP}; the engine against the golden vectors where it is built"
BY_HAND = f"{CLOSED_LOOP}; the engine by hand"
OF_TORCH = "is written from a program of torch's, which a PyTorch module alone gives"
OF_MODULE = "it is written of a PyTorch module alone, no ONNX file"
NO_ENGINE = "ONNX Runtime and numpy run its graph on a CPU; no engine ran on hardware"
ONE_MACHINE = "an engine runs with the TensorRT and the kind of GPU that built it, on no other"
OF_CONVERTER = "several streams in a step; operators that its converter refuses, by name"
# What stands on the page of another.
PAGES = {"executorch-portable": "executorch", "pt2": "torchscript"}
LOADED_BACK = "in a closed loop on torch against the model, loaded back from its bytes"


def _jetson(
    name: str, module: str, compute: str, jetpacks: tuple[JetPack, ...], memory: tuple[int, ...], opset: int, last: int
) -> Target:
    precisions = tuple(p for p in GRAPH_PRECISIONS if p in precisions_of_gpu(compute))
    checked = ON_DEVICE if any(j.builds for j in jetpacks) else BY_HAND
    row = Target(name, module, checked, precisions, "tensorrt", opset=opset, opsets=(13, last), library="tensorrt")
    builds = any(j.builds for j in jetpacks)
    how = (
        "this toolkit builds it there" if builds else "trtexec builds it there: its Python is too old for this toolkit"
    )
    row = replace(row, needs=f"to run: the module with its JetPack; {how}", ran=NO_ENGINE, cannot=ONE_MACHINE)
    return replace(row, compute=(compute,), jetpacks=jetpacks, memory=memory)


_EXECUTORCH = Target(
    name="executorch",
    summary="one step for ExecuTorch on XNNPACK (Android, iOS, Linux) with its state inside, as .pte",
    checked="in a closed loop on ExecuTorch on the CPU against the model",
    backend="executorch",
    min_version="1.5",
    needs="to write: torch, extra executorch; to run: ExecuTorch (the extra has it with torch)",
    ran="Python and C++ on x86-64 Linux; not: Android, iOS, a board",
    cannot=OF_CONVERTER,
)

_ROWS = (
    Target(
        name="onnx",
        summary="portable ONNX graphs, one step and whole sequences, for ONNX Runtime and all that reads ONNX",
        checked="in a closed loop on ONNX Runtime against the model",
        backend="onnxruntime",
        is_data=True,
        opset=18,
        opsets=(13, 23),
        needs="to run: ONNX Runtime (extra cpu or gpu), or whatever reads ONNX",
        ran="ONNX Runtime on CPUs, x86-64 Linux; not: CUDA, Arm, Windows, macOS",
        cannot="NPUs mostly take the decomposed step of the target tensorrt, not its recurrent operators",
    ),
    Target(
        name="torchscript",
        summary="one step for LibTorch (C++, mobile); torch has deprecated TorchScript and may drop it",
        checked=LOADED_BACK,
        backend="torchscript",
        from_torch=OF_TORCH,
        needs="to run: torch or LibTorch, not older than the torch that wrote it",
        ran="torch on CPUs, x86-64 Linux; not: mobile, CUDA",
        cannot=OF_MODULE,
    ),
    Target(
        name="pt2",
        summary="one step as torch.export saves it, for torch.export.load and AOTInductor",
        checked=LOADED_BACK,
        from_torch=OF_TORCH,
        needs="to run: torch, not older than the one that wrote it",
        ran="torch on CPUs, x86-64 Linux; not: AOTInductor, CUDA",
        cannot="no backend of this toolkit runs it; it is written of a PyTorch module alone",
    ),
    Target(
        name="openvino",
        summary="one step for OpenVINO with its state inside, as IR (xml, bin); fp16 and int8 store weights so",
        precisions=("fp32", "fp16", "int8"),
        checked="in a closed loop on OpenVINO on the CPU against the model",
        backend="openvino",
        is_data=True,
        min_version="2026.0",
        needs="to write and to run: OpenVINO (extra openvino)",
        ran="OpenVINO 2026.4 on CPUs, x86-64 Linux; not: GPUs, NPUs",
        cannot="states of int64, float64 or int16; a batch of another size than 1 and 16",
    ),
    Target(
        name="litert",
        summary="one step for LiteRT (Android, iOS, Linux) and TensorFlow Lite for Microcontrollers, as .tflite",
        precisions=("fp32", "int8"),
        checked="in a closed loop on LiteRT on the CPU against the model",
        backend="litert",
        min_version="2.3",
        needs="to write: torch, extra litert-export; to run: LiteRT (extra litert), or TFLM",
        ran="LiteRT and TFLM on x86-64 Linux; not: Android, iOS, a microcontroller",
        cannot=OF_CONVERTER,
    ),
    _EXECUTORCH,
    replace(
        _EXECUTORCH,
        name="executorch-portable",
        summary="the same on ExecuTorch's own kernels alone, where nothing else is linked",
    ),
    Target(
        name="coreml",
        summary="one step for Core ML (iOS 18, macOS 15) with its state inside, as an mlpackage; not run on hardware",
        precisions=("fp32", "fp16"),
        checked="in a closed loop against the model, its program executed in numpy; not run on hardware",
        backend="coreml",
        is_data=True,
        needs="to write: torch, extra coreml; to run: iOS 18 or macOS 15",
        ran="executed in numpy from its files; Core ML itself was not run",
        cannot=OF_CONVERTER,
    ),
    Target(
        name="c",
        summary="one step in C99 with no dependency, for microcontrollers, embedded Linux and the backend native",
        precisions=("fp32", "bf16", "int8"),
        checked=COMPILED,
        backend="native",
        needs="to compile: gcc, clang or zig; to run: nothing",
        ran="x86-64 Linux; Arm, RISC-V, Cortex-M by QEMU, Windows by Wine, WASI by Node; no board",
        cannot="operators that docs/c-operators.md lacks, by name",
    ),
    Target(
        name="wasm",
        summary="the step in C as WebAssembly, a package for browsers (an AudioWorklet too) and Node",
        precisions=("fp32", "bf16", "int8"),
        checked=WASMTIME,
        backend="wasm",
        needs="to build: zig and wasmtime (extra wasm); to run: Node 20 or a browser",
        ran="Node 20, Chromium 150, wasmtime 50; not: Firefox, Safari, phones",
        cannot="operators that docs/c-operators.md lacks; threads",
    ),
    Target(
        name="tensorrt",
        summary="a TensorRT engine for the GPU of the machine that builds it",
        precisions=GRAPH_PRECISIONS,
        checked=ON_DEVICE,
        backend="tensorrt",
        opset=18,
        opsets=(13, 20),
        library="tensorrt",
        min_version="10.0",
        needs="to build and to run: an NVIDIA GPU and TensorRT 10 or later (extra tensorrt)",
        ran=NO_ENGINE,
        cannot=ONE_MACHINE,
    ),
    Target(
        name="tensorrt-rtx",
        summary="a TensorRT-RTX engine for RTX 30 (8.6), 40 (8.9) and 50 (12.0)",
        precisions=GRAPH_PRECISIONS,
        checked=ON_DEVICE,
        backend="tensorrt",
        opset=18,
        opsets=(13, 23),
        library="tensorrt-rtx",
        min_version="1.0",
        compute=("8.6", "8.9", "12.0"),
        needs="to build: extra rtx, no GPU; to run: an RTX 30, 40 or 50",
        ran="engines were built, and the network that it parsed was executed in numpy; none ran on hardware",
        cannot="an engine runs with the TensorRT-RTX that built it, on no other",
    ),
    _jetson("jetson-nano", "Jetson Nano", "5.3", (JETPACK_4,), (2, 4), opset=13, last=13),
    _jetson("jetson-tx2", "Jetson TX2", "6.2", (JETPACK_4,), (4, 8), opset=13, last=13),
    _jetson("jetson-xavier-nx", "Jetson Xavier NX", "7.2", (JETPACK_5,), (8, 16), opset=17, last=17),
    _jetson("jetson-agx-xavier", "Jetson AGX Xavier", "7.2", (JETPACK_5,), (16, 32, 64), opset=17, last=17),
    _jetson("jetson-orin-nano", "Jetson Orin Nano", "8.7", ORIN, (4, 8), opset=17, last=17),
    _jetson("jetson-orin-nx", "Jetson Orin NX", "8.7", ORIN, (8, 16), opset=17, last=17),
    _jetson("jetson-agx-orin", "Jetson AGX Orin", "8.7", ORIN, (32, 64), opset=17, last=17),
    _jetson("jetson-thor", "Jetson Thor", "11.0", (*JETPACK_7, JETPACK_7_2), (64, 128), opset=18, last=20),
)
TARGETS = {row.name: row for row in _ROWS}


def table_rows() -> list[dict[str, Any]]:
    """The table for people and scripts, in JSON's types: one dict a target, all with the same keys."""
    return [
        {
            "target": row.name,
            "summary": row.summary,
            "library": row.library,
            "compute": list(row.compute),
            "jetpacks": [asdict(jetpack) for jetpack in row.jetpacks],
            "opset": row.opsets[1] if row.opsets else None,
            "precisions": list(row.precisions),
            "memory": list(row.memory),
            "builds": row.builds,
            "on_device": row.on_device,
            "checked": row.checked,
            "note": row.note,
            "needs": row.needs,
            "ran": row.ran,
            "cannot": row.cannot,
            "page": row.page,
        }
        for row in TARGETS.values()
    ]


def find_targets(names: Sequence[str], precision: str, opset: int | None) -> list[Target]:
    """The rows of `names`; raises ExportError where there is none, one stands twice or none of them has an opset."""
    if not names:
        raise ExportError("targets is empty: name at least one, for example targets=('onnx',).", id="targets-empty")
    rows = [find_target(name, precision, opset) for name in names]
    if len(set(names)) < len(names):
        raise ExportError(f"targets names one twice: {', '.join(names)}.", id="target-named-twice")
    if opset is not None and not any(row.opsets for row in rows):
        raise ExportError(
            f"opset {opset} was asked for, but {', '.join(names)} holds no ONNX graph: leave the opset out, "
            "or add the target 'onnx'.",
            id="opset-without-onnx",
        )
    return rows


def find_target(name: str, precision: str, opset: int | None) -> Target:
    """The row `name`, which must know the precision, and the opset if it has any; raises ExportError with what is."""
    if name not in TARGETS:
        raise ExportError(f"there is no target {name!r}: {_nearest(name)}.", id="target-unknown")
    target = TARGETS[name]
    if precision not in target.precisions:
        choice, why = ", ".join(target.precisions), target.unsupported_reason(precision)
        reason = f" The reason: {why}." if why else ""
        others = ", ".join(row.name for row in TARGETS.values() if precision in row.precisions)
        others = f" Targets in {precision}: {others}." if others else ""
        raise ExportError(
            f"target {name!r} is not written in {precision!r}: choose from {choice}.{reason}{others}",
            id="target-precision-unwritten",
        )
    if opset is not None and target.opsets is not None:
        low, high = target.opsets
        oldest = f" Its oldest TensorRT, {target.min_version_for(precision)}, reads no later one."
        why = oldest if target.jetpacks else ""
        if not low <= opset <= high:
            raise ExportError(
                f"opset {opset} is not supported for {name!r}: choose one from {low} to {high}.{why}",
                id="target-opset-unsupported",
            )
    return target


def _nearest(name: str) -> str:
    asked = re.sub(r"[_\s]+", "-", name.strip().lower())
    if machine := answer(name, asked):
        return machine
    inside = [known for known in TARGETS if asked and asked in known]
    near = inside or difflib.get_close_matches(asked, TARGETS, n=3, cutoff=0.6)
    meant = f"did you mean {' or '.join(near)}? Otherwise " if near else ""
    return f"{meant}choose from {', '.join(TARGETS)}"
