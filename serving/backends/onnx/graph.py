"""Runs an exported graph: ONNX Runtime on the CPU, weights given from memory."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

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

    def run(self, call: Callable[[Inputs], NDArray[np.float32]], inputs: Inputs) -> NDArray[np.float32]:
        """`call` on the rows (first axes) of `inputs`, in parts side by side."""
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
        return np.concatenate([mine, *(future.result() for future in futures)])

    def close(self) -> None:
        """End the threads."""
        if self._others:
            self._others.shutdown()


class Graph:
    """One ONNX Runtime session. Thread-safe."""

    def __init__(self, path: Path, weights: Mapping[str, NDArray[np.float32]], cores: Cores) -> None:
        """Load the graph at `path` with `weights` as its external initializers.

        Raises ModelError when a weight is missing, has another shape, or ONNX Runtime refuses the graph.
        """
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = cores.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # threads that spin between calls starve the gateway and every neighbour
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        shapes = expected_weights(path)
        self._held = [_fit(path, name, shape, find(weights, name)) for name, shape in shapes.items()]
        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in self._held]
        options.add_external_initializers(list(shapes), values)
        try:
            self._session = ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ModelError(f"{path}: ONNX Runtime refuses it ({error}); delete it and run `salon export`") from None
        self._cores = cores
        self._output = [self._session.get_outputs()[0].name]

    def __call__(self, **inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Run once on all rows; returns the graph's first output."""
        return self._cores.run(self._run, inputs)

    def outputs(self, **inputs: NDArray[Any]) -> tuple[NDArray[np.float32], ...]:
        """Run once on all rows together; returns every output, in the graph's order."""
        return tuple(self._session.run(None, inputs))

    def _run(self, inputs: Inputs) -> NDArray[np.float32]:
        output: NDArray[np.float32] = self._session.run(self._output, inputs)[0]
        return output


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
