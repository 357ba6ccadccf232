"""Cases of Einsum: products of every shape, with a constant on one side and without."""

from .c_sheet import Case, case, const
from .c_values import floats


def sums() -> list[Case]:
    cases = []
    pairs = [
        ("bi,io->bo", (3, 5), (5, 7)),
        ("bi,oi->bo", (3, 17), (9, 17)),
        ("bi,io", (3, 5), (5, 7)),
        ("bhi,hio->bho", (2, 3, 5), (3, 5, 4)),
        ("bhi,hio->boh", (2, 3, 5), (3, 5, 4)),
        ("bthd,bshd->bhts", (1, 3, 2, 8), (1, 4, 2, 8)),
        ("bhts,bshd->bthd", (1, 2, 3, 4), (1, 4, 2, 8)),
        ("bn,bd->bdn", (2, 3), (2, 4)),
        ("bdn,bn->bd", (2, 4, 3), (2, 3)),
        ("...i,ij->...j", (2, 3, 5), (5, 4)),
        ("...i,...i->...", (2, 3, 5), (2, 1, 5)),
        ("...ij,...jk", (2, 3, 4), (2, 4, 5)),
        ("b...d,de->b...e", (2, 3, 1, 5), (5, 4)),
        ("ij,jk->ik", (1, 5), (5, 1)),
        ("ij,kl->ijkl", (2, 3), (4, 5)),
        ("i,i->", (17,), (17,)),
        ("i,j->ij", (3,), (4,)),
        ("ijk,ilm->kjl", (2, 3, 4), (2, 5, 6)),
        ("ij,ij->ij", (3, 5), (3, 5)),
        ("ij,kj->k", (3, 5), (2, 5)),
        ("bij,ji->b", (2, 3, 4), (4, 3)),
        ("bi,ijk->bj", (2, 3), (3, 4, 5)),
        ("bi , io -> bo", (2, 3), (3, 1)),
    ]
    for equation, a, b in pairs:
        cases += [case("Einsum", floats(*a), const(floats(*b)), equation=equation)]
        cases += [case("Einsum", floats(*a), floats(*b), equation=equation)]
    cases += [
        case("Einsum", const(floats(4, 5)), floats(3, 5), equation="oi,bi->bo"),
        case("Einsum", floats(3, 3), equation="ii->i"),
        case("Einsum", floats(3, 3), equation="ii"),
        case("Einsum", floats(2, 3, 4), equation="bij->bji"),
        case("Einsum", floats(2, 3, 4), equation="bij->b"),
        case("Einsum", floats(2, 3, 3), floats(2, 3), equation="bii,bi->b"),
        case("Einsum", floats(2, 3), floats(3, 4), floats(4, 5), equation="ij,jk,kl->il"),
        case("Einsum", floats(2, 3), const(floats(3, 4)), floats(2, 4), equation="bi,ij,bj->b"),
        case("Einsum", floats(2, 3), floats(2, 4), floats(2, 4, 5), floats(5), equation="bi,bj,bjk,k->bik"),
    ]
    return cases
