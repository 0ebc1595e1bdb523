"""Calls of a session on the CPU, with inputs that stay the same from call to call bound once for each thread."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Inputs = Mapping[str, NDArray[Any]]


class Host:
    """Runs one session. Thread-safe; calls run side by side.

    A banked graph has two inputs for every layer with a branch: handing over a hundred arrays takes longer than many of its operators.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._kept: dict[str, Any] = {}
        self._of_thread = threading.local()

    def keep(self, inputs: Inputs) -> None:
        """Arrays that every later call finds; they are read in place, so what is written into them later counts."""
        import onnxruntime as ort

        if all(name in self._kept and self._kept[name].data_ptr() == array.ctypes.data for name, array in inputs.items()):
            return
        # another dictionary: calls under way have the one before, and threads see that theirs is old
        self._kept = self._kept | {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in inputs.items()}

    def run(self, inputs: Inputs, outputs: Sequence[str]) -> list[NDArray[np.float32]]:
        """The `outputs` for `inputs` and what is kept."""
        kept = self._kept
        if not kept:
            return list(self._session.run(outputs, dict(inputs)))
        mine = self._of_thread
        if getattr(mine, "kept", None) is not kept:
            mine.kept, mine.binding = kept, self._session.io_binding()
            for name, value in kept.items():
                mine.binding.bind_ortvalue_input(name, value)
        # the binding holds addresses only, so the arrays must live until the call is done
        given = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        for name, array in given.items():
            mine.binding.bind_cpu_input(name, array)
        for name in outputs:
            mine.binding.bind_output(name)
        self._session.run_with_iobinding(mine.binding)
        return list(mine.binding.copy_outputs_to_cpu())
