"""Opens ONNX Runtime sessions on the best provider that works, and says loudly when that is not the one asked for."""

import hashlib
import importlib
import importlib.util
import logging
import threading
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.backends.onnx.providers import (
    CPU,
    GET,
    RTX,
    RTX_PLUGIN,
    TENSORRT,
    Placement,
    Plan,
    Profile,
    Range,
    card,
    engine_folder,
    ladder,
    profile,
)
from serving.errors import ModelError

Weights = Mapping[str, NDArray[np.float32]]
_TOLD = 400  # characters of an error of ONNX Runtime's, which may be pages
_LOG = logging.getLogger("serving.onnx")


class Opened(msgspec.Struct, frozen=True):
    """A session, the plan that it runs by, and what it must keep alive: ONNX Runtime reads these arrays in place."""

    session: Any
    plan: Plan
    held: list[NDArray[Any]]


class Providers:
    """The providers of one lane's graphs. What failed for one graph is not tried for the next. Thread-safe.

    `notes` says what was asked for and is not there, once each, as it was logged.
    """

    def __init__(self, placement: Placement | None = None, known: frozenset[str] | None = None) -> None:
        """`known` providers: by default those of this installation."""
        self.placement = placement or Placement()
        self.notes: list[str] = []
        self._known = installed() if known is None else known
        self._failed: set[str] = set()
        self._lock = threading.Lock()

    def exactly(self) -> "Providers":
        """The same in fp32, for a part that fp16 overflows. Notes and failures are shared."""
        twin = Providers(msgspec.structs.replace(self.placement, precision="float32"), self._known)
        twin.notes, twin._failed, twin._lock = self.notes, self._failed, self._lock
        return twin

    def open(self, path: Path, data: bytes, weights: Weights, threads: int, ranges: Mapping[str, Range] | None = None) -> Opened:
        """A session of the graph `data`, which was read from `path`, with `weights` for its external initializers.

        `ranges` of its free dimensions are needed for TensorRT. Raises ModelError when no provider runs it.
        """
        folders, shapes = self._engines(data, weights, ranges or {})
        with self._lock:
            plans, _ = ladder(self.placement, self._known - self._failed, folders, shapes)
            _, missing = ladder(self.placement, self._known, folders, shapes)
            for reason in missing:
                self._say(reason)
        unrecorded = ""
        for plan in plans:
            try:
                opened = _open(plan, self.placement, data, weights, threads)
            except Exception as error:  # ONNX Runtime's exceptions share no base class
                if plan is plans[-1]:
                    raise ModelError(f"{path}: ONNX Runtime refuses it ({error}); delete it and run `salon export`") from None
                told = " ".join(str(error).split())[:_TOLD]
                if plan.graph:
                    unrecorded = f"{plan.name} runs {path.name} without a CUDA graph: {told}"
                    continue
                with self._lock:
                    self._failed.add(plan.needed)
                    self._say(f"{plan.name} cannot run {path.name}: {told}; it needs this: {GET[plan.needed]}")
            else:
                if unrecorded.startswith(f"{plan.name} "):
                    with self._lock:
                        self._say(unrecorded)
                return opened
        raise AssertionError("the last plan either opens or raises")

    def _engines(self, data: bytes, weights: Weights, ranges: Mapping[str, Range]) -> tuple[dict[str, Path], Profile | None]:
        """Where TensorRT keeps what it builds, by provider, and for which shapes it builds."""
        at = self.placement
        if not at.tensorrt or at.cache is None or not {RTX, TENSORRT} & self._known:
            return {}, None
        shapes = profile(free_inputs(data), ranges)
        digest = weights_digest(weights)
        kinds = {RTX: ("tensorrt-rtx", RTX_PLUGIN.replace("_", "-") + "-cu13"), TENSORRT: ("tensorrt", "tensorrt-cu13")}
        folders = {
            name: engine_folder(at.cache, kind, data, digest, at, shapes, [_version("onnxruntime-gpu"), _version(package), *card()])
            for name, (kind, package) in kinds.items()
            if name in self._known
        }
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        return folders, shapes

    def _say(self, reason: str) -> None:
        if reason not in self.notes:
            self.notes.append(reason)
            asked = "TensorRT" if self.placement.tensorrt else "CUDA"
            _LOG.warning("%s on device %s was asked for, and the next best runs: %s", asked, self.placement.device, reason)


def installed() -> frozenset[str]:
    """The providers of this installation; RTX where its plugin can be imported."""
    import onnxruntime as ort

    found = set(ort.get_available_providers())
    if importlib.util.find_spec(RTX_PLUGIN) is not None:
        found.add(RTX)
    return frozenset(found)


def free_inputs(data: bytes) -> dict[str, list[int | str]]:
    """The inputs that a serialized graph declares, and their dimensions: a number, or the name of a free one."""
    import onnx

    graph = onnx.load_model_from_string(data).graph
    weights = {value.name for value in graph.initializer}
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in graph.input
        if value.name not in weights
    }


def weights_digest(weights: Weights) -> str:
    """Of names, shapes and values, in any order."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = weights[name]
        digest.update(f"{name}\0{array.dtype}{array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _open(plan: Plan, placement: Placement, data: bytes, weights: Weights, threads: int) -> Opened:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # threads that spin between calls starve the gateway and every neighbour
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    held: list[NDArray[Any]] = list(weights.values())
    if plan.half:
        from serving.backends.onnx.half import halved

        data, held = halved(data), [array.astype(np.float16) for array in held]
    options.add_external_initializers(list(weights), [ort.OrtValue.ortvalue_from_numpy(array) for array in held])
    needed = plan.needed
    # without enable_fallback=False a provider that fails is replaced by the CPU with no more than a line on stdout
    if plan.plugin:
        needed = _add_plugin(options, plan, placement)
        session = ort.InferenceSession(data, options, enable_fallback=False)
    else:
        if needed != CPU and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # CUDA's and cuDNN's, where they were installed as Python packages
        session = ort.InferenceSession(data, options, providers=list(plan.providers), enable_fallback=False)
    if needed not in session.get_providers():
        raise ModelError(f"the session opened without {needed}; it has {', '.join(session.get_providers())}")
    return Opened(session, plan, held)


def _add_plugin(options: Any, plan: Plan, placement: Placement) -> str:
    """Register the plugin's library, and put its device and the providers below it into `options`. Returns the provider's name."""
    import onnxruntime as ort

    assert plan.plugin is not None
    plugin = importlib.import_module(plan.plugin)
    name: str = plugin.get_ep_name()
    devices = [device for device in ort.get_ep_devices() if device.ep_name == name]
    if not devices:
        ort.register_execution_provider_library(name, plugin.get_library_path())
        devices = [device for device in ort.get_ep_devices() if device.ep_name == name]
    by_index = {int(device.ep_options.get("device_id", place)): device for place, device in enumerate(devices)}
    if placement.index not in by_index:
        raise ModelError(f"{plan.plugin} has no device {placement.index} that it can use; it has {sorted(by_index) or 'none'}")
    first, *below = plan.providers
    options.add_provider_for_devices([by_index[placement.index]], first[1])
    for provider, told in below:
        options.add_provider(provider, told)
    return name


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package
