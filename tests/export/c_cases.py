"""Cases for every operator that the C writer knows, in every form that it takes."""

from .c_alike import binary, casts, gelu, limits, powers, remainders, unary
from .c_fourier import transforms, transforms_of_old
from .c_images import channel_norms, channel_norms_of_old, more_pools, resized, transposed
from .c_indices import caches, indices, ordered, running
from .c_moves import gathered, joined, padded, shapes, wrapped
from .c_products import cells, convolutions, products
from .c_rows import norms, pools, reductions, reductions_of_old, reductions_of_truths
from .c_sheet import Case
from .c_sums import sums
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
    "wrapped": (19, wrapped),
    "sums": (18, sums),
    "remainders": (18, remainders),
    "indices": (18, indices),
    "caches": (24, caches),
    "running": (26, running),
    "ordered": (18, ordered),
    "reductions of truths": (20, reductions_of_truths),
    "more pools": (19, more_pools),
    "transposed": (18, transposed),
    "resized": (18, resized),
    "channel norms": (21, channel_norms),
    "channel norms of old": (18, channel_norms_of_old),
    "transforms": (20, transforms),
    "transforms of old": (17, transforms_of_old),
}


def cases_of(family: str) -> tuple[int, list[Case]]:
    from_the_start()
    opset, make = FAMILIES[family]
    return opset, make()
