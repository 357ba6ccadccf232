"""Cases for every operator that the C writer knows, in every form that it takes."""

from .c_alike import binary, casts, gelu, limits, powers, unary
from .c_moves import gathered, joined, padded, shapes
from .c_products import cells, convolutions, products
from .c_rows import norms, pools, reductions, reductions_of_old
from .c_sheet import Case
from .c_values import from_the_start

# By name: the opset, and what makes the cases.
FAMILIES = {
    "unary": (18, unary),
    "gelu": (20, gelu),
    "binary": (18, binary),
    "limits": (18, limits),
    "powers": (18, powers),
    "casts": (18, casts),
    "shapes": (18, shapes),
    "joined": (18, joined),
    "gathered": (18, gathered),
    "padded": (18, padded),
    "reductions": (18, reductions),
    "reductions of old": (17, reductions_of_old),
    "norms": (18, norms),
    "pools": (18, pools),
    "products": (18, products),
    "convolutions": (18, convolutions),
    "cells": (18, cells),
}


def cases_of(family: str) -> tuple[int, list[Case]]:
    from_the_start()
    opset, make = FAMILIES[family]
    return opset, make()
