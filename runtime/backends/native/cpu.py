"""Features of a CPU, in the words of /proc/cpuinfo, and those that a compiler uses."""

import platform
import re
import sys
import sysconfig
from collections.abc import Set
from pathlib import Path
from typing import NamedTuple

import numpy as np

# A compiler's flags without -m; in capitals they are its macros. Only what it uses by itself: a build that never
# touches AES or AMX must run where they are missing.
_X86 = (
    "sse3 ssse3 sse4.1 sse4.2 popcnt movbe lzcnt bmi bmi2 avx f16c fma fma4 xop avx2 avxvnni gfni avx512f avx512cd "
    "avx512bw avx512dq avx512vl avx512ifma avx512vbmi avx512vbmi2 avx512vnni avx512bitalg avx512vpopcntdq avx512bf16 "
    "avx512fp16"
)
# The word of the kernel, where it is another one.
_WORDS = {"sse3": "pni", "sse4.1": "sse4_1", "sse4.2": "sse4_2", "lzcnt": "abm", "bmi": "bmi1", "avxvnni": "avx_vnni"}
_WORDS |= {f"avx512{name}": f"avx512_{name}" for name in ("vbmi2", "vnni", "bitalg", "vpopcntdq", "bf16", "fp16")}
# The word of the kernel, by the compiler's macro without __ARM_FEATURE_.
_ARM = {"ATOMICS": "atomics", "FP16_VECTOR_ARITHMETIC": "asimdhp", "FP16_FML": "asimdfhm", "QRDMX": "asimdrdm"}
_ARM |= {"DOTPROD": "asimddp", "JCVT": "jscvt", "FRINT": "frint", "BF16": "bf16", "MATMUL_INT8": "i8mm"}
_ARM |= {"SVE": "sve", "SVE2": "sve2"}
# Of systems without /proc/cpuinfo, by sys.platform.
_ELSEWHERE = {"darwin": "macos", "win32": "windows-gnu"}
# What numpy calls what it finds in an x86 by itself.
_OF_NUMPY = {"SSE3": "pni", "SSE41": "sse4_1", "SSE42": "sse4_2", "FMA3": "fma"}
_OF_NUMPY |= {f"AVX512_{name}": f"avx512_{name}".lower() for name in ("VNNI", "VBMI2", "BITALG", "VPOPCNTDQ", "FP16")}
# Every Mac with a processor of Apple's has what the first of them had.
APPLE_M1 = frozenset(["atomics", "asimdhp", "asimdfhm", "asimdrdm", "asimddp", "jscvt", "frint"])
CPUINFO = Path("/proc/cpuinfo")


class Cpu(NamedTuple):
    """The model's name, and its features; they are empty where the kernel does not tell."""

    model: str
    features: frozenset[str]


def this_cpu(path: Path = CPUINFO) -> Cpu:
    """Read the kernel's `path`, for the features of the first core; elsewhere those that numpy finds."""
    if sys.platform in _ELSEWHERE:
        mac = sys.platform == "darwin" and platform.machine() == "arm64"
        return Cpu(platform.processor() or platform.machine(), APPLE_M1 if mac else of_numpy())
    text = read_text(path)
    words = re.search(r"^(?:flags|Features)[ \t]*:(.*)$", text, re.MULTILINE)
    return Cpu(_model(text), frozenset(words[1].split() if words else ()))


def of_numpy() -> frozenset[str]:
    """The x86 features that numpy finds, in the words of the kernel: a subset, and none where it does not say."""
    core = getattr(np, "_core", None) or np.core
    found = getattr(getattr(core, "_multiarray_umath", None), "__cpu_features__", {})
    known = {_WORDS.get(flag, flag) for flag in _X86.split()}
    words = {_OF_NUMPY.get(name, name.lower()) for name, there in found.items() if there}
    return frozenset(known & words)


def library_name(triple: str) -> str:
    """The file of a library that is loaded on the machine `triple`."""
    return "native.dll" if "-windows" in triple else "native.dylib" if triple.endswith("-macos") else "native.so"


def read_text(path: Path) -> str:
    """The text of a file of the kernel; empty where there is none."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _model(text: str) -> str:
    """Arm names no model, but numbers of the maker and the part."""
    if named := re.search(r"^(?:model name|Model|Hardware)[ \t]*:[ \t]*(.+)$", text, re.MULTILINE):
        return named[1].strip()
    numbers = re.findall(r"^CPU (implementer|part)[ \t]*:[ \t]*(\S+)$", text, re.MULTILINE)
    return " ".join((platform.machine(), *(f"{what} {number}" for what, number in dict(numbers).items())))


def features(macros: Set[str]) -> list[str]:
    """Features, in the words of /proc/cpuinfo, that a compiler uses which defines `macros`."""
    if "__aarch64__" in macros:
        return [word for name, word in _ARM.items() if f"__ARM_FEATURE_{name}" in macros]
    if "__arm__" in macros:
        return ["neon"] * ("__ARM_NEON" in macros) + ["vfpv4"] * ("__ARM_FEATURE_FMA" in macros)
    used = [flag for flag in _X86.split() if f"__{flag.upper().replace('.', '_')}__" in macros]
    return [_WORDS.get(flag, flag) for flag in used]


def without(words: Set[str]) -> list[str]:
    """Flags that keep a compiler for x86 from using the features `words`."""
    return [f"-mno-{flag}" for flag in _X86.split() if _WORDS.get(flag, flag) in words]


def host_triple() -> str:
    """The triple of this Python, 32 bits though its kernel may have 64: "x86_64-linux-gnu", "arm-linux-gnueabihf"."""
    if sys.platform in _ELSEWHERE:
        name = platform.machine().lower()
        return f"{ {'amd64': 'x86_64', 'arm64': 'aarch64'}.get(name, name) }-{_ELSEWHERE[sys.platform]}"
    parts = str(sysconfig.get_config_var("HOST_GNU_TYPE") or "").split("-")
    if len(parts) < 3:
        return f"{platform.machine()}-linux-gnu"
    return f"{'arm' if parts[0].startswith('arm') else parts[0]}-linux-{parts[-1]}"
