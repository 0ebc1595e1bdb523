"""A named tensor, and its data as bytes and as JSON."""

import re
import struct
from math import prod
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

JSON_ELEMENTS = 1 << 22
_SIGN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[,]', re.DOTALL)
NUMBERS: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("u1"), "UINT16": np.dtype("<u2"), "UINT32": np.dtype("<u4"), "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"), "INT16": np.dtype("<i2"), "INT32": np.dtype("<i4"), "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8"),
}  # fmt: skip


class WireError(ValueError):
    """Bytes that are no message of the protocol. The text names tensor, value and fix."""


class Tensor(msgspec.Struct, frozen=True):
    """`data`: an array of `datatype`, in any layout; for BYTES a flat list, row by row. Arrays that came in are read-only."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: NDArray[Any] | list[bytes]


def of_numbers(name: str, data: NDArray[Any]) -> Tensor:
    """A tensor with the shape and type of `data`. Raises WireError for a type that the protocol has not."""
    for datatype, dtype in NUMBERS.items():
        if data.dtype == dtype:
            return Tensor(name, datatype, data.shape, data)
    raise WireError(f"tensor {name!r}: numpy's {data.dtype} has no datatype in the protocol; convert it first")


def to_bytes(tensor: Tensor) -> bytes | memoryview:
    """Its elements, row by row; a view of them where that does. Raises WireError when data, shape and datatype disagree."""
    _check_own(tensor)
    if isinstance(tensor.data, list):
        return b"".join(part for each in tensor.data for part in (struct.pack("<I", len(each)), each))
    return np.ascontiguousarray(tensor.data, NUMBERS[tensor.datatype]).reshape(-1).view(np.uint8).data


def from_bytes(name: str, datatype: str, shape: tuple[int, ...], data: memoryview) -> Tensor:
    """Raises WireError unless `data` is exactly what `shape` tells."""
    count = prod(shape)
    if datatype == "BYTES":
        return Tensor(name, datatype, shape, _strings(name, shape, count, data))
    dtype = _dtype(name, datatype)
    if len(data) != count * dtype.itemsize:
        raise WireError(
            f"tensor {name!r}: {datatype} of shape {list(shape)} takes {count * dtype.itemsize} bytes, but binary_data_size is {len(data)}"
        )
    if datatype == "BOOL":
        return Tensor(name, datatype, shape, _shaped(name, np.frombuffer(data, np.uint8) != 0, shape))
    return Tensor(name, datatype, shape, _shaped(name, np.frombuffer(data, dtype), shape))


def _strings(name: str, shape: tuple[int, ...], count: int, data: memoryview) -> list[bytes]:
    strings: list[bytes] = []
    at = 0
    while at < len(data):
        if len(strings) == count:
            raise WireError(f"tensor {name!r}: bytes are left behind the {count} elements that shape {list(shape)} tells")
        if at + 4 > len(data):
            raise WireError(f"tensor {name!r}: element {len(strings)} ends inside its length; send 4 bytes of length, then the content")
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        if length > len(data) - at:
            raise WireError(f"tensor {name!r}: element {len(strings)} should have {length} bytes, but {len(data) - at} are left")
        strings.append(bytes(data[at : at + length]))
        at += length
    if len(strings) != count:
        raise WireError(f"tensor {name!r}: has {len(strings)} elements, but shape {list(shape)} tells {count}")
    return strings


def to_json(tensor: Tensor) -> bytes:
    """Its elements as one flat JSON list. Raises WireError for bytes that are no text, or too many elements."""
    _check_own(tensor)
    if prod(tensor.shape) > JSON_ELEMENTS:
        raise WireError(f"tensor {tensor.name!r}: {prod(tensor.shape)} elements are too many for JSON; ask for it with binary_data true")
    if not isinstance(tensor.data, list):
        return msgspec.json.encode(tensor.data.reshape(-1).tolist())
    try:
        return msgspec.json.encode([each.decode() for each in tensor.data])
    except UnicodeDecodeError:
        raise WireError(f"tensor {tensor.name!r} holds bytes that are no text; ask for it with binary_data true") from None


def from_json(name: str, datatype: str, shape: tuple[int, ...], data: bytes) -> Tensor:
    """`data`: JSON of a flat list, or of lists nested as `shape` tells. Raises WireError."""
    if not data:
        raise WireError(f"tensor {name!r} has no data; send `data`, or bytes and `binary_data_size`")
    dtype = None if datatype == "BYTES" else _dtype(name, datatype)
    element: Any = str if dtype is None else {"b": bool, "i": int, "u": int, "f": float}[dtype.kind]
    levels = _levels(name, shape, data)
    kind: Any = list[element]
    for _ in range(levels - 1):
        kind = list[kind]
    try:
        values = msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise WireError(f"tensor {name!r}: `data` is not a list for {datatype}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise WireError(f"tensor {name!r}: `data` cannot be read: {error}") from None
    for level in range(levels):
        size = shape[level] if levels > 1 else prod(shape)
        rows = [values] if level == 0 else values
        if any(len(row) != size for row in rows):
            raise WireError(f"tensor {name!r}: `data` has not the elements that shape {list(shape)} tells")
        values = [each for row in rows for each in row]
    if dtype is None:
        return Tensor(name, datatype, shape, [each.encode() for each in values])
    try:
        with np.errstate(over="ignore"):
            array = np.array(values, dtype)
    except OverflowError:
        raise WireError(f"tensor {name!r}: an element does not fit {datatype}") from None
    return Tensor(name, datatype, shape, _shaped(name, array, shape))


def _levels(name: str, shape: tuple[int, ...], data: bytes) -> int:
    """How deep the lists are, 1 or one per dimension. Looks at signs only, so that nothing is built that `shape` has no room for."""
    nested = 1 + sum(prod(shape[:level]) for level in range(1, len(shape)))
    lists = commas = 0
    if b'"' not in data:
        lists, commas = data.count(b"["), data.count(b",")
    else:
        for sign in _SIGN.finditer(data):
            lists, commas = lists + (sign[0] == b"["), commas + (sign[0] == b",")
            if lists > nested or commas > prod(shape) + nested:
                break
    if lists > nested or commas > prod(shape) + nested:
        raise WireError(f"tensor {name!r}: `data` has not the elements that shape {list(shape)} tells")
    return max(1, len(shape)) if lists > 1 else 1


def _shaped(name: str, array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        return array.reshape(shape)
    except ValueError:  # no elements, and the other dimensions beyond what numpy can count
        raise WireError(f"tensor {name!r}: shape {str(list(shape))[:80]} is too large") from None


def _dtype(name: str, datatype: str) -> np.dtype[Any]:
    if datatype not in NUMBERS:
        raise WireError(f"tensor {name!r}: datatype is {datatype[:20]!r}; use {', '.join(NUMBERS)} or BYTES")
    return NUMBERS[datatype]


def _check_own(tensor: Tensor) -> None:
    size = len(tensor.data) if isinstance(tensor.data, list) else tensor.data.size
    if size != prod(tensor.shape) or (tensor.datatype == "BYTES") != isinstance(tensor.data, list):
        raise WireError(f"tensor {tensor.name!r}: {tensor.datatype} of shape {list(tensor.shape)} does not fit its {size} elements")
