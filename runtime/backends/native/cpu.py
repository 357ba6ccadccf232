"""What a CPU can do, in the words of /proc/cpuinfo, and which of it a compiler uses."""

from __future__ import annotations

import platform
import re
import sysconfig
from collections.abc import Set
from pathlib import Path
from typing import NamedTuple

# (macro of the compiler, word of the kernel, flag without -m). Only what a compiler uses by itself: a build that never
# touches AES or AMX must run where they are missing.
_X86 = (
    ("__SSE3__", "pni", "sse3"),
    ("__SSSE3__", "ssse3", "ssse3"),
    ("__SSE4_1__", "sse4_1", "sse4.1"),
    ("__SSE4_2__", "sse4_2", "sse4.2"),
    ("__POPCNT__", "popcnt", "popcnt"),
    ("__MOVBE__", "movbe", "movbe"),
    ("__LZCNT__", "abm", "lzcnt"),
    ("__BMI__", "bmi1", "bmi"),
    ("__BMI2__", "bmi2", "bmi2"),
    ("__AVX__", "avx", "avx"),
    ("__F16C__", "f16c", "f16c"),
    ("__FMA__", "fma", "fma"),
    ("__FMA4__", "fma4", "fma4"),
    ("__XOP__", "xop", "xop"),
    ("__AVX2__", "avx2", "avx2"),
    ("__AVXVNNI__", "avx_vnni", "avxvnni"),
    ("__GFNI__", "gfni", "gfni"),
    ("__AVX512F__", "avx512f", "avx512f"),
    ("__AVX512CD__", "avx512cd", "avx512cd"),
    ("__AVX512BW__", "avx512bw", "avx512bw"),
    ("__AVX512DQ__", "avx512dq", "avx512dq"),
    ("__AVX512VL__", "avx512vl", "avx512vl"),
    ("__AVX512IFMA__", "avx512ifma", "avx512ifma"),
    ("__AVX512VBMI__", "avx512vbmi", "avx512vbmi"),
    ("__AVX512VBMI2__", "avx512_vbmi2", "avx512vbmi2"),
    ("__AVX512VNNI__", "avx512_vnni", "avx512vnni"),
    ("__AVX512BITALG__", "avx512_bitalg", "avx512bitalg"),
    ("__AVX512VPOPCNTDQ__", "avx512_vpopcntdq", "avx512vpopcntdq"),
    ("__AVX512BF16__", "avx512_bf16", "avx512bf16"),
    ("__AVX512FP16__", "avx512_fp16", "avx512fp16"),
)
_ARM = (
    ("__ARM_FEATURE_ATOMICS", "atomics"),
    ("__ARM_FEATURE_FP16_VECTOR_ARITHMETIC", "asimdhp"),
    ("__ARM_FEATURE_FP16_FML", "asimdfhm"),
    ("__ARM_FEATURE_QRDMX", "asimdrdm"),
    ("__ARM_FEATURE_DOTPROD", "asimddp"),
    ("__ARM_FEATURE_JCVT", "jscvt"),
    ("__ARM_FEATURE_FRINT", "frint"),
    ("__ARM_FEATURE_BF16", "bf16"),
    ("__ARM_FEATURE_MATMUL_INT8", "i8mm"),
    ("__ARM_FEATURE_SVE", "sve"),
    ("__ARM_FEATURE_SVE2", "sve2"),
)
CPUINFO = Path("/proc/cpuinfo")


class Cpu(NamedTuple):
    """The model's name, and its features; they are empty where the kernel does not tell."""

    model: str
    features: frozenset[str]


def this_cpu(path: Path = CPUINFO) -> Cpu:
    """Read what the kernel says in `path`; the features are those of the first core."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        text = ""
    words = re.search(r"^(?:flags|Features)[ \t]*:(.*)$", text, re.MULTILINE)
    return Cpu(_model(text), frozenset(words[1].split() if words else ()))


def _model(text: str) -> str:
    """Arm names no model, but numbers of the maker and the part."""
    if named := re.search(r"^(?:model name|Model|Hardware)[ \t]*:[ \t]*(.+)$", text, re.MULTILINE):
        return named[1].strip()
    numbers = re.findall(r"^CPU (implementer|part)[ \t]*:[ \t]*(\S+)$", text, re.MULTILINE)
    return " ".join((platform.machine(), *(f"{what} {number}" for what, number in dict(numbers).items())))


def features(macros: Set[str]) -> list[str]:
    """Features, in the words of /proc/cpuinfo, that a compiler uses which defines `macros`."""
    if "__aarch64__" in macros:
        return [word for macro, word in _ARM if macro in macros]
    if "__arm__" in macros:
        return ["neon"] * ("__ARM_NEON" in macros) + ["vfpv4"] * ("__ARM_FEATURE_FMA" in macros)
    return [word for macro, word, _ in _X86 if macro in macros]


def without(words: Set[str]) -> list[str]:
    """Flags that keep a compiler for x86 from using the features `words`."""
    return [f"-mno-{flag}" for _, word, flag in _X86 if word in words]


def host_triple() -> str:
    """The triple of this Python, 32 bits though its kernel may have 64: "x86_64-linux-gnu", "arm-linux-gnueabihf"."""
    parts = str(sysconfig.get_config_var("HOST_GNU_TYPE") or "").split("-")
    if len(parts) < 3:
        return f"{platform.machine()}-linux-gnu"
    return f"{'arm' if parts[0].startswith('arm') else parts[0]}-linux-{parts[-1]}"
