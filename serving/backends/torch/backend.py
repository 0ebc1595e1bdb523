"""Images in the making as tensors on one device."""

from pathlib import Path

from serving.backends.port import Backend
from serving.errors import ModelError
from serving.model import Model
from serving.settings import EngineSettings


def open_torch(model: Model, settings: EngineSettings, cache: Path, places: int) -> Backend:
    """Raises ModelError."""
    raise ModelError('backend "torch" is not built yet; set backend = "onnx"')
