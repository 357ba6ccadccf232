"""The wire format of protobuf, as far as an ONNX file needs it, read and written without the onnx package.

Source: protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

# A number of a varint or fixed field, or the content of a field of bytes.
Value = int | memoryview


def fields(message: memoryview) -> Iterator[tuple[int, int, Value]]:
    """(number, wire type, value) of each field of a message, in order; raises ValueError where it is none."""
    at, end = 0, len(message)
    while at < end:
        key, at = varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = varint(message, at)
            yield number, wire, value
            continue
        size = {FIXED64: 8, FIXED32: 4}.get(wire)
        if wire == BYTES:
            size, at = varint(message, at)
        if size is None or number == 0:
            raise ValueError(f"a field has wire type {wire} and number {number}, which cannot be")
        if size > end - at:
            raise ValueError(f"a field of {size} bytes is cut off after {end - at}")
        yield number, wire, message[at : at + size]
        at += size


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends."""
    number = shift = 0
    while True:
        if at == len(data) or shift > 63:
            raise ValueError("a number is cut off, or has over 64 bits")
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at


def packed(value: Value) -> list[int]:
    """The numbers of a repeated varint field, packed or one of them."""
    if isinstance(value, int):
        return [signed(value)]
    numbers, at = [], 0
    while at < len(value):
        number, at = varint(value, at)
        numbers.append(signed(number))
    return numbers


def signed(number: int) -> int:
    """An int64 from its 64 bits."""
    number &= 2**64 - 1
    return number - 2**64 if number >> 63 else number


def text(value: Value) -> str:
    """The content of a field as a string; raises ValueError where it is none."""
    if isinstance(value, int):
        raise ValueError("a name is a number")
    return bytes(value).decode()


def write_varint(number: int) -> bytes:
    number &= 2**64 - 1
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def write_bytes(number: int, content: bytes | memoryview) -> bytes:
    """A field of bytes: a string, or a message."""
    return write_varint(number << 3 | BYTES) + write_varint(len(content)) + bytes(content)


def write_number(number: int, value: int) -> bytes:
    """A varint field."""
    return write_varint(number << 3) + write_varint(value)
