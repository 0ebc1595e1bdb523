"""Calls of a session whose inputs and outputs lie on its device: ONNX Runtime's IOBinding."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Inputs = Mapping[str, NDArray[Any]]
_SETS_KEPT = 32
Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class _Buffers:
    """The binding for one set of shapes, and its arrays on the device: always the same, as a recorded CUDA graph needs them."""

    def __init__(self, binding: Any, inputs: dict[str, Any], number: int) -> None:
        self.binding, self.inputs, self.number = binding, inputs, number
        self.fixed_outputs = False


class Bound:
    """Runs one session on `device` (a word of ONNX Runtime: cuda, cpu), number `index`. Thread-safe, one call at a time.

    Each set of input shapes has buffers of its own; those of the last few sets stay. `recorded`: the session replays CUDA graphs,
    one for each set.
    """

    def __init__(self, session: Any, device: str, index: int, *, recorded: bool) -> None:
        self._session, self._device, self._index, self._recorded = session, device, index, recorded
        self._kept: dict[str, Any] = {}
        self._by_shapes: OrderedDict[tuple[Shapes, tuple[str, ...]], _Buffers] = OrderedDict()
        self._made = 0
        self._lock = threading.Lock()

    def keep(self, inputs: Inputs) -> None:
        """Put `inputs` on the device, where every later call finds them. Arrays of the shape that was there are overwritten."""
        with self._lock:
            for name, array in inputs.items():
                there = self._kept.get(name)
                if there is not None and tuple(there.shape()) == array.shape:
                    there.update_inplace(np.ascontiguousarray(array))
                else:
                    self._kept[name] = self._on_device(array)
                    self._by_shapes.clear()  # they are bound to the array that was there

    def run(self, inputs: Inputs, outputs: Sequence[str]) -> list[NDArray[np.float32]]:
        """The `outputs` for `inputs` and what is kept, in host memory."""
        import onnxruntime as ort

        with self._lock:
            key = tuple((name, array.shape) for name, array in inputs.items()), tuple(outputs)
            buffers = self._by_shapes.get(key)
            if buffers is None:
                buffers = self._by_shapes[key] = self._new(inputs, outputs)
                if len(self._by_shapes) > _SETS_KEPT:
                    self._by_shapes.popitem(last=False)
            else:
                self._by_shapes.move_to_end(key)
                for name, array in inputs.items():
                    buffers.inputs[name].update_inplace(np.ascontiguousarray(array))
            options = ort.RunOptions()
            if self._recorded:
                # the first call of new shapes finds the outputs' shapes, so nothing is recorded; later ones have fixed addresses
                number = str(buffers.number) if buffers.fixed_outputs else "-1"
                options.add_run_config_entry("gpu_graph_id", number)
            self._session.run_with_iobinding(buffers.binding, options)
            results = buffers.binding.get_outputs()
            arrays = [np.array(result.numpy()) for result in results]  # the buffers serve the next call
            if not buffers.fixed_outputs:
                for name, result in zip(outputs, results, strict=True):
                    buffers.binding.bind_ortvalue_output(name, result)
                buffers.fixed_outputs = True
            return arrays

    def _new(self, inputs: Inputs, outputs: Sequence[str]) -> _Buffers:
        binding = self._session.io_binding()
        placed = {name: self._on_device(array) for name, array in inputs.items()}
        for name, value in (placed | self._kept).items():
            binding.bind_ortvalue_input(name, value)
        for name in outputs:
            binding.bind_output(name, self._device, self._index)
        self._made += 1
        return _Buffers(binding, placed, self._made)

    def _on_device(self, array: NDArray[Any]) -> Any:
        import onnxruntime as ort

        # a copy: on the CPU the value would share the caller's memory
        return ort.OrtValue.ortvalue_from_numpy(np.array(array, order="C"), self._device, self._index)
