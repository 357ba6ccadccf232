"""HTML and SVG written out: an element is a function call, and any other text is escaped."""

from collections.abc import Iterable, Sequence
from html import escape

from rnn_export.platform.terminal_text import visible

# Elements that hold nothing: of HTML, and of SVG, which closes them.
VOID, CLOSED = ("meta", "link", "br"), ("path", "rect", "line", "circle")


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def text(value: object) -> Html:
    """Any value as text of a page; all that a terminal or browser acts on is escaped."""
    return value if isinstance(value, Html) else Html(escape(visible(str(value))))


def element(name: str, /, *children: object, **attributes: object) -> Html:
    """`<name attributes>children</name>`; None is left out, and `class_` is `class`, `a_b` is `a-b`.

    An attribute may be a whole page: markup is escaped and nothing else, so that it is read as it was.
    """
    text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value if isinstance(value, Html) else visible(str(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if not children and name in (*VOID, *CLOSED):
        return Html(f"<{name}{text}{'/' if name in CLOSED else ''}>")
    return Html(f"<{name}{text}>{joined(children)}</{name}>")


def joined(children: Iterable[object]) -> Html:
    """Children joined; None is left out."""
    return Html("".join(text(child) for child in children if child is not None))


def code(value: object, **attributes: object) -> Html:
    return element("code", value, **attributes)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], kind: str | None = None) -> Html:
    """A table of a class, whose cells know the name of their column, so that a narrow page can make a list of a row."""
    head = element("tr", *(element("th", name, scope="col") for name in columns))
    body = [
        element("tr", *(element("td", cell, data_label=name) for name, cell in zip(columns, row, strict=True)))
        for row in rows
    ]
    return element("table", element("thead", head), element("tbody", *body), class_=kind)


def shape_text(shape: Sequence[object]) -> str:
    return f"({', '.join(map(str, shape))})"
