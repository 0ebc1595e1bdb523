"""Opens the backend that a variant asks for."""

from pathlib import Path

from serving.backends.port import Backend
from serving.errors import ModelError
from serving.model import Model
from serving.settings import EngineSettings
from serving.variant import Backend as Name


def open_backend(name: Name, model: Model, settings: EngineSettings, cache: Path, places: int) -> Backend:
    """`places`: how many images may be in the making. Raises ModelError that says what is missing."""
    if name == "torch":
        from serving.backends.torch.backend import open_torch

        return open_torch(model, settings, cache, places)
    if name == "tensorrt" and settings.device == "cpu":
        raise ModelError('backend "tensorrt" needs a CUDA device; set device = "cuda" in [engines.…], or backend = "onnx"')
    from serving.backends.onnx.backend import OnnxBackend

    return OnnxBackend(model, settings, cache, places, tensorrt=name == "tensorrt")
