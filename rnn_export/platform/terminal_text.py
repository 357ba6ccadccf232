"""Text from outside, such as a bundle's names and a server's words, made safe for a terminal."""

from unicodedata import category

# Control, format (which turns the direction of writing), surrogates, and separators of lines and paragraphs.
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def visible(text: str, lines: bool = False) -> str:
    """`text` with characters that a terminal acts on written as in Python's source; with `lines`, line ends stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_written_out(c) if category(c) in UNSEEN and not (lines and c == "\n") else c for c in text)


def code(name: str) -> str:
    """`name` as code in Markdown, in a cell of a table too."""
    return f"`{visible(name)}`".replace("|", "\\|")


def _written_out(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
