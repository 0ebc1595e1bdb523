"""Runs an exported graph: ONNX Runtime on the CPU, weights given from memory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.errors import ModelError
from serving.weights import find

GRAPH_FORMAT = 1  # raise it when serving.export writes other inputs, outputs or operators


class Graph:
    """One ONNX Runtime session. Calls are made from one thread."""

    def __init__(self, path: Path, weights: Mapping[str, NDArray[np.float32]], threads: int) -> None:
        """Load the graph at `path` with `weights` as its external initializers.

        Raises ModelError when a weight is missing, has another shape, or ONNX Runtime refuses the graph.
        """
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
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
        self._output = [self._session.get_outputs()[0].name]

    def __call__(self, **inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Run once; returns the graph's first output."""
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
