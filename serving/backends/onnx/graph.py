"""Runs an exported graph in ONNX Runtime, weights given from memory."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.backends.onnx.bound import Bound
from serving.backends.onnx.host import Host
from serving.backends.onnx.providers import Range
from serving.backends.onnx.session import Providers
from serving.errors import ModelError
from serving.weights import find

Inputs = dict[str, NDArray[Any]]
GRAPH_FORMAT = 1  # raise it when serving.export writes other inputs, outputs or operators


class Cores:
    """How a lane's graphs share `count` cores: rows apart on one thread each, or all rows together on all threads.

    A small graph is hundreds of operators of some microseconds. Threads that meet after each of them wait for one
    another at every one, up to a hundred times as long when other processes want the cores; rows meet once a call.
    A large graph has too few rows for that, and operators long enough.
    """

    def __init__(self, count: int, *, by_row: bool) -> None:
        self.threads, self.parts = (1, count) if by_row else (count, 1)
        self._others = ThreadPoolExecutor(self.parts - 1, "salon-rows") if self.parts > 1 else None

    def run(self, call: Callable[[Inputs], list[NDArray[np.float32]]], inputs: Inputs) -> list[NDArray[np.float32]]:
        """The outputs of `call` on the rows (first axes) of `inputs`, in parts side by side."""
        rows = len(next(iter(inputs.values())))
        parts = min(self.parts, rows)
        if self._others is None or parts < 2:
            return call(inputs)
        edges = [rows * i // parts for i in range(parts + 1)]
        pieces = [{name: array[first:last] for name, array in inputs.items()} for first, last in pairwise(edges)]
        futures = [self._others.submit(call, piece) for piece in pieces[1:]]
        try:
            mine = call(pieces[0])
        finally:
            wait(futures)
        parts_of = zip(mine, *(future.result() for future in futures), strict=True)
        return [np.concatenate(parts) for parts in parts_of]

    def close(self) -> None:
        """End the threads."""
        if self._others:
            self._others.shutdown()


class Graph:
    """One ONNX Runtime session. Thread-safe."""

    def __init__(
        self,
        path: Path,
        weights: Mapping[str, NDArray[np.float32]],
        cores: Cores,
        *,
        providers: Providers | None = None,
        ranges: Mapping[str, Range] | None = None,
        data: bytes | None = None,
        prepare: Callable[[Inputs], Inputs] | None = None,
    ) -> None:
        """Load the graph at `path`, or `data` that was made from it, with `weights` as its external initializers.

        `prepare` makes the graph's inputs of those of a call, of each part of its rows by itself.
        `providers` of the lane, by default the CPU's; `ranges` of the graph's free dimensions are needed for TensorRT. Raises
        ModelError when a weight is missing, has another shape, or ONNX Runtime refuses the graph.
        """
        shapes = expected_weights(path)
        fitted = {name: _fit(path, name, shape, find(weights, name)) for name, shape in shapes.items()}
        providers = providers or Providers()
        opened = providers.open(path, data if data is not None else path.read_bytes(), fitted, cores.threads, ranges)
        self._session, self._held, self._cores = opened.session, opened.held, cores
        self.provider = opened.plan.name
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._prepare = prepare or dict
        self._host = Host(self._session)
        self._bound: Bound | None = None
        if opened.plan.name in ("cuda", "tensorrt"):
            self._bound = Bound(self._session, "cuda", providers.placement.index, recorded=opened.plan.graph)

    def __call__(self, **inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Run once on all rows; returns the graph's first output."""
        return self._run(inputs, self._outputs[:1])[0]

    def outputs(self, **inputs: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        """Run once on all rows; every output by name."""
        return dict(zip(self._outputs, self._run(inputs, self._outputs), strict=True))

    def keep(self, **inputs: NDArray[Any]) -> None:
        """Inputs that stay the same from call to call, whole for every row, and on the device where there is one."""
        (self._bound or self._host).keep(inputs)

    def _run(self, inputs: Inputs, outputs: list[str]) -> list[NDArray[np.float32]]:
        if self._bound:
            return self._bound.run(self._prepare(inputs), outputs)
        return self._cores.run(lambda rows: self._host.run(self._prepare(rows), outputs), inputs)


def expected_weights(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight that the graph at `path` needs. Raises ModelError."""
    beside = path.with_suffix(".json")
    try:
        return msgspec.convert(msgspec.json.decode(beside.read_bytes())["weights"], dict[str, tuple[int, ...]])
    except (OSError, KeyError, TypeError, msgspec.MsgspecError) as error:
        raise ModelError(f"{beside}: is missing or damaged ({error}); delete {path.parent} and run `salon export`") from None


def _fit(path: Path, name: str, shape: tuple[int, ...], array: NDArray[np.float32] | None) -> NDArray[np.float32]:
    if array is None:
        raise ModelError(f"{path}: needs the weight {name}, which the model's safetensors lack; export the directory again")
    if array.shape == shape:
        return np.ascontiguousarray(array)
    # a linear layer and a 1 × 1 convolution are the same matrix, and both were used for attention
    if array.size == int(np.prod(shape)) and tuple(n for n in array.shape if n != 1) == tuple(n for n in shape if n != 1):
        return np.ascontiguousarray(array.reshape(shape))
    raise ModelError(f"{path}: {name} has shape {list(array.shape)}, the graph expects {list(shape)}; export the directory again")
