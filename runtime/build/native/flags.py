"""Flags of compilers: for a library here, for other machines, in CMakeLists.txt and in the tests."""

from __future__ import annotations

FLAGS = ("-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
LINK = ("-shared", "-fPIC", "-fvisibility=hidden", "-s")
STANDARD = ("-std=c99",)
# For a microcontroller: unrolled by -O3 a step takes up to twice the flash, and a program takes what it calls.
BARE = ("-O2", "-ffunction-sections", "-fdata-sections")
