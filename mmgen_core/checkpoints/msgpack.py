"""JAX archives: the msgpack files that flax writes, mapped into memory and read without code.

A file is nested maps of names; an array is an extension of type 1 that holds its shape, the name
of its dtype and its bytes in C order. Of everything else that msgpack can say only plain numbers
and texts are taken. Names are joined with "/".
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ARRAY, SCALAR = 1, 3  # flax's extension types; 2 is a complex number, which no weight is
CHUNKED = "__msgpack_chunked_array__"  # how flax splits arrays above 2**30 bytes
MAX_DEPTH = 32
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
    "int64": torch.int64,
    "int32": torch.int32,
    "int16": torch.int16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}


class MsgpackError(ValueError):
    """What is wrong with a file, without its name."""


def starts_like_msgpack(first: bytes) -> bool:
    """Whether a file may be a msgpack map: neither a zip archive nor a pickle begins so."""
    return bool(first) and (0x81 <= first[0] <= 0x8F or first[0] in (0xDE, 0xDF))


def read_msgpack(path: Path) -> dict[str, Tensor]:
    """All arrays of a file by their joined names. Their bytes stay in the file, mapped.

    Raises:
        MsgpackError: cut off, damaged, or holding what is no array.
    """
    with open(path, "rb") as file:
        # Copy on write: torch wants writable memory, the file stays as it is.
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    reader = _Reader(data)
    tree = reader.value()
    if reader.at != len(data):
        raise MsgpackError(f"{len(data) - reader.at} bytes follow its content")
    if not isinstance(tree, dict):
        raise MsgpackError(f"it holds a {type(tree).__name__}, not named arrays")
    return dict(_flat(tree))


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in tree.items():
        if isinstance(value, dict) and CHUNKED in value:
            value = _joined(value)
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}/")
        elif isinstance(value, Tensor):
            yield f"{prefix}{name}", value


def _joined(chunks: dict[str, Any]) -> Tensor:
    """One array from flax's chunks {"shape": {"0": ...}, "chunks": {"0": ...}}."""
    try:
        shape = [int(size) for size in _in_order(chunks["shape"])]
        return torch.cat(_in_order(chunks["chunks"])).reshape(shape)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise MsgpackError(f"a split array does not fit together ({error})") from error


def _in_order(values: dict[str, Any] | list) -> list[Any]:
    if isinstance(values, list):
        return values
    return [values[str(i)] for i in range(len(values))]


class _Reader:
    """Values of a buffer, one after the other, each length checked before it is used."""

    def __init__(self, data: mmap.mmap, at: int = 0, end: int | None = None):
        self.data, self.at = data, at
        self.end = len(data) if end is None else end

    def take(self, count: int) -> int:
        """Where the next ``count`` bytes begin."""
        start, self.at = self.at, self.at + count
        if self.at > self.end:
            raise MsgpackError(f"it is cut off: {self.at - self.end} bytes are missing at the end")
        return start

    def number(self, form: str) -> Any:
        start = self.take(struct.calcsize(form))
        return struct.unpack_from(form, self.data, start)[0]

    def value(self, depth: int = 0) -> Any:
        if depth > MAX_DEPTH:
            raise MsgpackError(f"its maps are nested more than {MAX_DEPTH} deep")
        code = self.number(">B")
        if code < 0x80 or code >= 0xE0:
            return code if code < 0x80 else code - 0x100
        if code < 0x90:
            return self.map(code & 0x0F, depth)
        if code < 0xA0:
            return [self.value(depth + 1) for _ in range(code & 0x0F)]
        if code < 0xC0:
            return self.text(code & 0x1F)
        return self.wide(code, depth)

    def wide(self, code: int, depth: int) -> Any:
        """Values whose first byte says how wide the length or number after it is."""
        constants = {0xC0: None, 0xC2: False, 0xC3: True}
        if code in constants:
            return constants[code]
        if 0xCA <= code <= 0xD3:
            return self.number(">" + "fdBHIQbhiq"[code - 0xCA])
        lengths = {0xD9: ">B", 0xDA: ">H", 0xDB: ">I", 0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}
        if code in lengths:
            return self.text(self.number(lengths[code])) if code > 0xD8 else self.raw(lengths[code])
        if code in (0xDC, 0xDD):
            length = self.number(">H" if code == 0xDC else ">I")
            return [self.value(depth + 1) for _ in range(self.plausible(length))]
        if code in (0xDE, 0xDF):
            return self.map(self.number(">H" if code == 0xDE else ">I"), depth)
        if 0xD4 <= code <= 0xD8:
            return self.extension(1 << (code - 0xD4))
        if 0xC7 <= code <= 0xC9:
            return self.extension(self.number((">B", ">H", ">I")[code - 0xC7]))
        raise MsgpackError(f"byte {code:#x} at {self.at - 1} begins no value")

    def plausible(self, count: int) -> int:
        """A count of values, each of which needs a byte at least."""
        if count > self.end - self.at:
            raise MsgpackError(
                f"it is cut off: {count} values are announced, {self.end - self.at} bytes left"
            )
        return count

    def map(self, count: int, depth: int) -> dict[str, Any]:
        found = {}
        for _ in range(self.plausible(count)):
            name = self.value(depth + 1)
            if not isinstance(name, str):
                raise MsgpackError(f"a name is a {type(name).__name__}, not a text")
            found[name] = self.value(depth + 1)
        return found

    def text(self, length: int) -> str:
        start = self.take(length)
        try:
            return self.data[start : start + length].decode("utf-8")
        except UnicodeDecodeError as error:
            raise MsgpackError(f"a name at byte {start} is no text") from error

    def raw(self, form: str) -> tuple[int, int]:
        """Where bytes lie: start and length."""
        length = self.number(form)
        return self.take(length), length

    def extension(self, length: int) -> Tensor:
        kind = self.number(">b")
        start = self.take(length)
        if kind not in (ARRAY, SCALAR):
            raise MsgpackError(f"it holds an extension of type {kind}; arrays are of type {ARRAY}")
        inner = _Reader(self.data, start, start + length)
        parts = inner.value()
        if not (isinstance(parts, list) and len(parts) == 3 and isinstance(parts[2], tuple)):
            raise MsgpackError(f"the array at byte {start} is not (shape, dtype, bytes)")
        return self.array(*parts)

    def array(self, shape: Any, dtype: Any, where: tuple[int, int]) -> Tensor:
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise MsgpackError(f"it holds an array of dtype {dtype!r}; known: {', '.join(DTYPES)}")
        sizes_fit = isinstance(shape, list) and all(isinstance(s, int) and s >= 0 for s in shape)
        kind, (start, length) = DTYPES[dtype], where
        if not sizes_fit or math.prod(shape) * kind.itemsize != length:
            raise MsgpackError(f"an array of shape {shape} and {dtype} has {length} bytes")
        if length == 0:
            return torch.empty(shape, dtype=kind)
        count = length // kind.itemsize
        return torch.frombuffer(self.data, dtype=kind, count=count, offset=start).reshape(shape)
