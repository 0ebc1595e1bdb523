"""Reads safetensors files, whole or sharded, fp32, fp16 or bf16 on disk, as fp32 arrays in memory."""

import math
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.errors import ModelError

Weights = dict[str, NDArray[np.float32]]
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "u1"}
_STEMS = ("diffusion_pytorch_model", "model")
_LARGEST_HEADER = 100 << 20


class Stored(msgspec.Struct, frozen=True):
    """One tensor's entry in a safetensors header: dtype name, shape and byte range after the header."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_file(path: Path) -> Weights:
    """Every floating-point tensor of one safetensors file, as fp32. Raises ModelError."""
    weights: Weights = {}
    for name, stored, data in _tensors(path):
        if stored.dtype not in _DTYPES:
            raise ModelError(f"{path}: {name} has dtype {stored.dtype}; save the model in float16, bfloat16 or float32")
        dtype = np.dtype(_DTYPES[stored.dtype])
        if min(stored.shape, default=0) < 0 or len(data) != math.prod(stored.shape) * dtype.itemsize:
            raise ModelError(f"{path}: {name} has {len(data)} bytes for shape {list(stored.shape)}; the file is damaged, copy it again")
        array = np.frombuffer(data, dtype)
        if stored.dtype == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        weights[name] = np.array(array, np.float32).reshape(stored.shape)
    return weights


def _tensors(path: Path) -> Iterator[tuple[str, Stored, bytes]]:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
            length = int.from_bytes(memory[:8], "little")
            if length > min(len(memory) - 8, _LARGEST_HEADER):
                raise ValueError("its header is longer than the file")
            header = msgspec.json.decode(memory[8 : 8 + length], type=dict[str, Any])
            header.pop("__metadata__", None)
            entries = msgspec.convert(header, dict[str, Stored])
            for name, stored in entries.items():
                first, last = (8 + length + offset for offset in stored.data_offsets)
                if not 8 + length <= first <= last <= len(memory):
                    raise ValueError(f"{name} lies outside the file")
                yield name, stored, memory[first:last]
    except ModelError:
        raise
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ModelError(f"{path}: is not a safetensors file ({error}); copy it again") from None


def elements(path: Path) -> int:
    """How many numbers the tensors of one safetensors file hold. Raises ModelError."""
    return sum(math.prod(stored.shape) for _, stored, _ in _tensors(path))


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of one part of a model: plain before `.fp16.`, whole before sharded. Raises ModelError."""
    for stem in _STEMS:
        for variant in ("", ".fp16"):
            if (whole := folder / f"{stem}{variant}.safetensors").is_file():
                return [whole]
            for index in (folder / f"{stem}.safetensors.index{variant}.json", folder / f"{stem}{variant}.safetensors.index.json"):
                if index.is_file():
                    return _shards(index)
    if any(folder.glob("*.bin")):
        raise ModelError(f"{folder}: has only pickled .bin weights, which can run code; save it with safe_serialization=True")
    raise ModelError(f"{folder}: has no {_STEMS[0]}.safetensors; copy the whole model directory")


def _shards(index: Path) -> list[Path]:
    try:
        names: Mapping[str, str] = msgspec.json.decode(index.read_bytes())["weight_map"]
        shards = [index.parent / Path(name).name for name in sorted(set(names.values()))]
    except (KeyError, TypeError, AttributeError, OSError, msgspec.DecodeError) as error:
        raise ModelError(f"{index}: is not a shard index ({error!r}); copy it again") from None
    if missing := [shard for shard in shards if not shard.is_file()]:
        raise ModelError(f"{missing[0]}: is missing, though {index.name} names it; copy it into the directory")
    return shards


def read_part(folder: Path) -> Weights:
    """Every weight of `unet/`, `vae/` or `text_encoder/`, fp32. Raises ModelError."""
    weights: Weights = {}
    for path in weight_files(folder):
        weights.update(read_file(path))
    return weights


# one matrix that T5 holds twice, and files once
_TIED = {"encoder.embed_tokens.weight": "shared.weight", "shared.weight": "encoder.embed_tokens.weight"}
_OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def find(weights: Mapping[str, NDArray[np.float32]], name: str) -> NDArray[np.float32] | None:
    """`name`, or the same weight by the name that older diffusers and transformers gave it; None when absent."""
    if (array := weights.get(name)) is not None:
        return array
    other = name.removeprefix("text_model.") if name.startswith("text_model.") else f"text_model.{name}"
    if (array := weights.get(other)) is not None:
        return array
    if (array := weights.get(_TIED.get(name, ""))) is not None:
        return array
    for new, old in _OLD_ATTENTION.items():
        if f".{new}." in name and (array := weights.get(name.replace(f".{new}.", f".{old}."))) is not None:
            return array
    return None
