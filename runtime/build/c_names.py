"""Names and types of C, made of those in a contract: the C writer and the glue agree through them."""

import re
from collections.abc import Sequence

import numpy as np

from rnn_export.bundle import TargetRow
from rnn_export.errors import BundleError

# C has no float16: it is the bits of one.
C_TYPES = {"float32": "float", "float64": "double", "float16": "uint16_t", "bool": "uint8_t"}
C_TYPES |= {dtype: f"{dtype}_t" for dtype in ("int64", "int32", "uint32", "int8")}
# Bytes of one value.
SIZES = {c_type: np.dtype(dtype).itemsize for dtype, c_type in C_TYPES.items()}

_KEYWORDS = """
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t char32_t class co_await
    co_return co_yield compl concept const const_cast consteval constexpr constinit continue decltype default delete do
    double dynamic_cast else enum explicit export extern false float for friend goto if import inline int long module
    mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public register
    reinterpret_cast requires restrict return short signed sizeof static static_assert static_cast struct switch
    template this thread_local throw true try typedef typeid typename typeof typeof_unqual union unsigned using virtual
    void volatile wchar_t while xor xor_eq
"""
# Names of headers that a step includes, and macros that compilers define where no standard is asked for.
_LIBRARY = """
    errno size_t ptrdiff_t int8_t uint8_t int16_t uint16_t int32_t uint32_t int64_t uint64_t NULL linux unix i386 arm
"""
# Parameters and members of what is written, files beside NAME.c, and the prefix of the glue's own functions.
_WRITTEN = "state states weights way wrong_index front rows steps main selftest golden kernels rnn rnn_team"
# Headers that a step and its programs read, or that those read in turn: a NAME.h beside them would be read instead; and
# targets that CMake has of its own.
_HEADERS = """
    alloca assert complex ctype endian errno features fenv float inttypes iso646 limits locale malloc math memory
    poll pthread regex sched search select semaphore setjmp signal stdalign stdarg stdatomic stdbool stddef stdint
    stdio stdlib stdnoreturn string strings syslog termios tgmath threads time uchar unistd utime values wait wchar
    wctype
    all clean help install package test
"""
RESERVED = frozenset(f"{_KEYWORDS} {_LIBRARY} {_WRITTEN}".split())


def identifier(text: str) -> str:
    """`text` in letters, digits and single underscores, not starting with a digit and not reserved.

    "rnn.l0.h" gives "rnn_l0_h", "2x" gives "_2x", "int" gives "the_int".
    """
    name = re.sub("[^A-Za-z0-9]+", "_", text)
    if name.strip("_") == "":
        return "nameless"
    if name[0].isdigit():
        name = f"_{name}"
    # W0, W1 ... are the weights of a large model, RNN_LANES and the like are of kernels.h: macros.
    return f"the_{name}" if name in RESERVED or re.fullmatch("W[0-9]+|RNN_.*", name) else name


def source_name(text: str) -> str:
    """The name that the sources of a model called `text` go by: an identifier that no header of C's library has."""
    name = identifier(text)
    return f"the_{name}" if name.lower() in _HEADERS.split() else name


def c_name(row: TargetRow) -> str:
    """The name that the sources of a target `c` go by; raises BundleError where C has a thing of that name."""
    name = str(row.requires["name"])
    if source_name(name) != name:
        raise BundleError(
            f"target 'c' ({row.precision}) calls its sources {name!r}, but that is a name of C itself. Export the "
            "bundle again.",
            id="c-name-reserved",
        )
    return name


def identifiers(texts: Sequence[str]) -> list[str]:
    """One for each, distinct even in upper case: "a.b" and "A_b" give "a_b" and "A_b_2"."""
    names: list[str] = []
    taken: set[str] = set()
    for text in texts:
        base = name = identifier(text)
        count = 1
        while name.upper() in taken:
            count += 1
            name = f"{base.rstrip('_')}_{count}"
        taken.add(name.upper())
        names.append(name)
    return names
