"""A model's parts as torch modules with the directory's own weights, on the device."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from serving.errors import ModelError
from serving.model import Model, VaeConfig
from serving.traced import traced
from serving.weights import Weights, find, read_part


class Part:
    """One part: `module` takes tensors in the order of `inputs` and answers a tensor, or some in the order of `answers`."""

    def __init__(self, module: torch.nn.Module, inputs: tuple[str, ...], answers: tuple[str, ...]) -> None:
        self.module, self.inputs, self._answers = module, inputs, answers
        parameter = next(module.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype

    @property
    def bytes(self) -> int:
        """Of its weights on the device."""
        return sum(tensor.nbytes for tensor in self.module.state_dict().values())

    def ordered(self, sample: torch.Tensor, timestep: torch.Tensor, conditioning: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """What a network takes, in its order and precision."""
        return [sample.to(self.dtype), timestep, *(conditioning[name] for name in self.inputs[2:])]

    def outputs(self, **inputs: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        """Every output by name, fp32, for inputs by name; waits for the device."""
        with torch.no_grad():
            made = self.module(*(torch.from_numpy(inputs[name]).to(self.device) for name in self.inputs))
        values = made if isinstance(made, tuple) else (made,)
        return {name: value.float().cpu().numpy() for name, value in zip(self._answers, values, strict=True)}


def load_part(model: Model, part: str, device: torch.device, dtype: torch.dtype, weights: Weights | None = None) -> Part:
    """`part` of the model, with `weights` for those of its directory. Raises ModelError."""
    folder = model.folder / part
    config = read_config(folder)
    # on the meta device no time is spent on first values; text encoders have buffers that are made, not read
    with torch.device("cpu" if part in model.layout.text_encoders else "meta"):
        made = traced(model.layout, part, config)
    module = made.module
    values = _values(module, read_part(folder) if weights is None else weights, folder)
    module.load_state_dict(values, strict=True, assign=True)
    pixels_last = device.type == "cuda" and part not in model.layout.text_encoders
    module.eval().requires_grad_(False).to(device, dtype)
    if dtype is torch.float16:  # layers that overflow there, by their own class (T5's)
        for name in getattr(module.model, "_keep_in_fp32_modules", None) or ():
            for layer in (layer for path, layer in module.named_modules() if path.endswith(f".{name}")):
                layer.float()
    if pixels_last:  # what tensor cores want of convolutions
        module.to(memory_format=torch.channels_last)
    return Part(module, tuple(made.axes), made.outputs)


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a part. Raises ModelError."""
    path = folder / "config.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); copy the whole model directory") from None


def _values(module: torch.nn.Module, weights: Weights, folder: Path) -> dict[str, torch.Tensor]:
    values = {}
    for name, wanted in module.state_dict().items():
        array = find(weights, name.removeprefix("model."))
        if array is None:
            raise ModelError(f"{folder}: its safetensors lack the weight {name.removeprefix('model.')}; copy the whole model directory")
        # a linear layer and a 1 × 1 convolution are the same matrix, and both were used for attention
        if tuple(n for n in array.shape if n != 1) != tuple(n for n in wanted.shape if n != 1):
            raise ModelError(
                f"{folder}: {name} has shape {list(array.shape)}, config.json wants {list(wanted.shape)}; copy the whole model directory"
            )
        values[name] = torch.from_numpy(array).reshape(wanted.shape)
    return values


class Decoder:
    """Latents to pixels by the decoder of an AutoencoderKL, `at_once` latents in one call."""

    def __init__(self, part: Part, config: VaeConfig, at_once: int) -> None:
        self.part, self._config, self._at_once = part, config, at_once

    def __call__(self, latents: torch.Tensor) -> NDArray[np.uint8]:
        """fp32 latents [n, c, h, w] to uint8 [n, height, width, 3]; waits for the device."""
        latents = latents / self._config.scaling_factor + (self._config.shift_factor or 0.0)
        made = [self.part.module(some.to(self.part.dtype)) for some in latents.split(self._at_once)]
        levels = torch.cat(made).float().mul_(0.5).add_(0.5).clamp_(0, 1).mul_(255).round_().to(torch.uint8)
        pixels: NDArray[np.uint8] = levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return pixels
