"""C types of dtypes."""

from __future__ import annotations

import numpy as np

# C has no float16: it is the bits of one.
C_TYPES = {
    "float32": "float",
    "float64": "double",
    "float16": "uint16_t",
    "int64": "int64_t",
    "int32": "int32_t",
    "uint32": "uint32_t",
    "int8": "int8_t",
    "bool": "uint8_t",
}
# Bytes of one value.
SIZES = {c_type: np.dtype(dtype).itemsize for dtype, c_type in C_TYPES.items()}
