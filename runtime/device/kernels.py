"""Kernels over the rows of a buffer, as PTX, which the driver compiles for any GPU from Maxwell on.

A block has row i = its number along x, and its threads walk along the row in units of a dtype, together with those of
the other blocks along y. Assembled for every GPU of the target table in the tests, and not run on hardware.

Source: the PTX ISA reference, "Instruction Set".
"""

import math

# 6.0 is CUDA 9's.
HEADER = ".version 6.0\n.target sm_50\n.address_size 64\n"

# Row `to_row` of `to` becomes row `from_row` of `from`: one of them is i, the other rows[i].
COPY = """
.visible .entry {verb}_{type}(.param .u64 to, .param .u64 from, .param .u64 rows, .param .u32 units)
{{
    .reg .pred %end;
    .reg .u32 %i, %row, %units, %nbytes, %j, %step, %threads, %block, %value;
    .reg .u64 %to, %from, %rows, %at;

    ld.param.u64 %to, [to];
    ld.param.u64 %from, [from];
    ld.param.u64 %rows, [rows];
    ld.param.u32 %units, [units];
    cvta.to.global.u64 %to, %to;
    cvta.to.global.u64 %from, %from;
    cvta.to.global.u64 %rows, %rows;

    mov.u32 %i, %ctaid.x;
    mad.wide.u32 %at, %i, 4, %rows;
    ld.global.u32 %row, [%at];
    mul.lo.u32 %nbytes, %units, {size};
    mad.wide.u32 %to, {to_row}, %nbytes, %to;
    mad.wide.u32 %from, {from_row}, %nbytes, %from;
{walk}
    mad.wide.u32 %at, %j, {size}, %from;
    ld.global.{type} %value, [%at];
    mad.wide.u32 %at, %j, {size}, %to;
    st.global.{type} [%at], %value;
{again}
}}
"""

# Byte i of `flags` becomes 1 where row i of `from` has a NaN: without its sign it lies above infinity.
FLAG = """
.visible .entry nan_{kind}(.param .u64 flags, .param .u64 from, .param .u32 units)
{{
    .reg .pred %end, %nan;
    .reg .u32 %i, %units, %nbytes, %j, %step, %threads, %block, %one;
    .reg .u64 %flag, %from, %at, %wide, %value;

    ld.param.u64 %flag, [flags];
    ld.param.u64 %from, [from];
    ld.param.u32 %units, [units];
    cvta.to.global.u64 %flag, %flag;
    cvta.to.global.u64 %from, %from;

    mov.u32 %one, 1;
    mov.u32 %i, %ctaid.x;
    cvt.u64.u32 %wide, %i;
    add.u64 %flag, %flag, %wide;
    mul.lo.u32 %nbytes, %units, {size};
    mad.wide.u32 %from, %i, %nbytes, %from;
{walk}
    mad.wide.u32 %at, %j, {size}, %from;
    ld.global.{type} %value, [%at];
    and.b64 %value, %value, {magnitude};
    setp.gt.u64 %nan, %value, {infinity};
    @%nan st.global.u8 [%flag], %one;
{again}
}}
"""

WALK = """
    mov.u32 %threads, %ntid.x;
    mov.u32 %block, %ctaid.y;
    mov.u32 %j, %tid.x;
    mad.lo.u32 %j, %block, %threads, %j;
    mov.u32 %step, %nctaid.y;
    mul.lo.u32 %step, %step, %threads;
next:
    setp.ge.u32 %end, %j, %units;
    @%end ret;"""
AGAIN = "    add.u32 %j, %j, %step;\n    bra next;"

# The bits of a float: its unsigned type, its size in bytes and its infinity.
FLOAT_BITS = {
    "float64": ("u64", 8, 0x7FF0000000000000),
    "float32": ("u32", 4, 0x7F800000),
    "float16": ("u16", 2, 0x7C00),
    "bfloat16": ("u16", 2, 0x7F80),
}
WORD = 4
THREADS = 256
# The most blocks along y.
BLOCKS = 65535


def ptx() -> str:
    """Every kernel: gather_u32, gather_u8, scatter_u32, scatter_u8, and a nan_{dtype} of each float."""
    loop = {"walk": WALK, "again": AGAIN}
    copies = [
        COPY.format(verb=verb, type=kind, size=size, to_row=to, from_row=from_, **loop)
        for verb, to, from_ in (("gather", "%i", "%row"), ("scatter", "%row", "%i"))
        for kind, size in (("u32", WORD), ("u8", 1))
    ]
    flags = []
    for kind, (bits, size, infinity) in FLOAT_BITS.items():
        numbers = {"size": size, "magnitude": hex(2 ** (8 * size - 1) - 1), "infinity": hex(infinity)}
        flags.append(FLAG.format(kind=kind, type=bits, **numbers, **loop))
    return "".join((HEADER, *copies, *flags))


def copier(verb: str, nbytes: int) -> tuple[str, int]:
    """The kernel that gathers or scatters rows of `nbytes`, and the number of units in one."""
    return (f"{verb}_u8", nbytes) if nbytes % WORD else (f"{verb}_u32", nbytes // WORD)


def flagger(kind: str, nbytes: int) -> tuple[str, int]:
    """The kernel that looks for NaN in rows of `nbytes` of the dtype `kind`, and the number of units in one."""
    return f"nan_{kind}", nbytes // FLOAT_BITS[kind][1]


def grid(count: int, units: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    threads = min(THREADS, 32 * math.ceil(units / 32))
    return (count, min(BLOCKS, math.ceil(units / threads)), 1), (threads, 1, 1)
