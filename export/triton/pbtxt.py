"""Write a protobuf message as text, as Triton reads its config.pbtxt, and check it by Triton's own definition."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from rnn_export.errors import ExportError


class EnumName(str):
    """The name of a value of an enumeration: written without quotes."""


def text(message: Mapping[str, Any]) -> str:
    """`message` as text: a mapping is a message, a list a repeated field, anything else a value."""
    return "".join(f"{line}\n" for line in _lines(message))


def check(config: str) -> bool:
    """Check a config by Triton's own definition; False without tritonclient. Raises ExportError if it is none."""
    if find_spec("tritonclient") is None:
        return False
    try:
        from google.protobuf import text_format
        from tritonclient.grpc import model_config_pb2
    except ImportError:  # tritonclient without its [grpc]
        return False
    try:
        text_format.Parse(config, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise ExportError(f"this is no config.pbtxt that Triton reads: {error}.", id="pbtxt-unreadable") from error
    return True


def _lines(message: Mapping[str, Any]) -> Iterator[str]:
    for key, value in message.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Mapping):
                yield f"{key} {{"
                yield from (f"  {line}" for line in _lines(item))
                yield "}"
            else:
                yield f"{key}: {_value(item)}"


def _value(value: str | int | float) -> str:
    """A string is in quotes, every byte that is not printable ASCII in octal."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, EnumName) or not isinstance(value, str):
        return str(value)
    escaped = value.replace("\\", r"\\").replace('"', r"\"")
    plain = (chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}" for byte in escaped.encode())
    return f'"{"".join(plain)}"'
