"""The parts of a model as torch modules with examples of their inputs: what serving.export turns into graphs. Needs torch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from serving.errors import ModelError
from serving.layouts import STABLE_DIFFUSION, Layout

_EXAMPLE_SIDE = 8
_EXAMPLE_TOKENS = 7


@dataclass(frozen=True)
class Traced:
    """`module` takes `inputs`, one of each name of `axes`, whose free axes are named there; it answers `outputs`.

    Its weights are named `model.…`, as in the part's own files after that.
    """

    module: torch.nn.Module
    inputs: tuple[Tensor, ...]
    axes: dict[str, dict[int, str]]
    outputs: tuple[str, ...]


def traced(layout: Layout, part: str, config: dict[str, Any]) -> Traced:
    """`part` of `layout` with the architecture of its `config.json` and no particular weights. Raises ModelError."""
    makers: dict[str, Callable[[Layout, str, dict[str, Any]], Traced]] = {
        "CLIPTextModel": _clip,
        "CLIPTextModelWithProjection": _clip_with_projection,
        "T5EncoderModel": _t5,
        "UNet2DConditionModel": _unet,
        "SD3Transformer2DModel": _sd3,
        "AutoencoderKL": _vae_decoder,
    }
    return makers[layout.parts[part]](layout, part, config)


class _Wrapped(torch.nn.Module):
    """`call(model, *inputs)` as a module."""

    def __init__(self, model: Any, call: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self._call = model, call
        self.float().eval().requires_grad_(False)  # a config may ask for half precision

    def forward(self, *inputs: Tensor) -> Any:
        return self._call(self.model, *inputs)


# Examples have at least two tokens and two rows: the exporter takes a size of one for a constant.
def _clip(layout: Layout, part: str, told: dict[str, Any]) -> Traced:
    config = CLIPTextConfig.from_dict(told)
    penultimate = layout.pipeline != STABLE_DIFFUSION.pipeline
    if penultimate:
        if config.num_hidden_layers < 2:
            raise ModelError(f"{part}/config.json: num_hidden_layers is {config.num_hidden_layers}; {layout.name} needs two or more")
        config.num_hidden_layers -= 1
    # "eager" and "sdpa" differ in speed only; sdpa exports to one Attention node
    model: Any = CLIPTextModel._from_config(config, attn_implementation="sdpa")
    if penultimate:  # what the layer before the last says, not normalised
        getattr(model, "text_model", model).final_layer_norm = torch.nn.Identity()
    return Traced(_Wrapped(model, lambda m, ids: m(input_ids=ids, return_dict=False)[0]), _ids(config), _IDS, ("last_hidden_state",))


def _clip_with_projection(layout: Layout, part: str, told: dict[str, Any]) -> Traced:
    config = CLIPTextConfig.from_dict(told)
    if config.num_hidden_layers < 2:
        raise ModelError(f"{part}/config.json: num_hidden_layers is {config.num_hidden_layers}; {layout.name} needs two or more")
    model: Any = CLIPTextModelWithProjection._from_config(config, attn_implementation="sdpa")

    def call(m: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
        made = m(input_ids=ids, output_hidden_states=True)
        return made.hidden_states[-2], made.text_embeds

    return Traced(_Wrapped(model, call), _ids(config), _IDS, ("hidden_state", "text_embeds"))


_IDS = {"input_ids": {0: "batch"}}


def _ids(config: Any) -> tuple[Tensor]:
    return (torch.randint(0, config.vocab_size, (2, config.max_position_embeddings)),)


def _t5(layout: Layout, part: str, told: dict[str, Any]) -> Traced:
    config = T5Config.from_dict(told)
    model: Any = T5EncoderModel._from_config(config)
    ids = torch.randint(0, config.vocab_size, (2, _EXAMPLE_TOKENS))
    axes = {"input_ids": {0: "batch", 1: "tokens"}}
    return Traced(_Wrapped(model, lambda m, x: m(input_ids=x, return_dict=False)[0]), (ids,), axes, ("last_hidden_state",))


def _unet(layout: Layout, part: str, config: dict[str, Any]) -> Traced:
    width = config.get("cross_attention_dim", 1280)
    if not isinstance(width, int):
        raise ModelError(f"unet/config.json: cross_attention_dim {width!r} is not one number; {layout.name} has one")
    model: Any = UNet2DConditionModel.from_config(config)
    side = max(_EXAMPLE_SIDE, 2 ** len(model.config["block_out_channels"]))
    sample = torch.randn(2, model.config["in_channels"], side, side)
    inputs: tuple[Tensor, ...] = (sample, torch.tensor([500.0, 20.0]), torch.randn(2, _EXAMPLE_TOKENS, width))
    axes = {"sample": _IMAGE, "timestep": {0: "batch"}, "encoder_hidden_states": {0: "batch", 1: "tokens"}}
    if model.config["addition_embed_type"] is None:
        return Traced(_Wrapped(model, lambda m, *x: m(*x, return_dict=False)[0]), inputs, axes, ("out_sample",))
    pooled = model.config["projection_class_embeddings_input_dim"] - 6 * model.config["addition_time_embed_dim"]
    inputs = (*inputs, torch.randn(2, pooled), torch.rand(2, 6))
    axes |= {"text_embeds": {0: "batch"}, "time_ids": {0: "batch"}}

    def call(m: Any, sample: Tensor, timestep: Tensor, hidden: Tensor, text: Tensor, ids: Tensor) -> Any:
        return m(sample, timestep, hidden, added_cond_kwargs={"text_embeds": text, "time_ids": ids}, return_dict=False)[0]

    return Traced(_Wrapped(model, call), inputs, axes, ("out_sample",))


_IMAGE = {0: "batch", 2: "height", 3: "width"}


def _sd3(layout: Layout, part: str, config: dict[str, Any]) -> Traced:
    model: Any = SD3Transformer2DModel.from_config(config)
    told = model.config
    if told["pos_embed_max_size"] is None:
        raise ModelError(f"{part}/config.json: pos_embed_max_size is missing; {layout.name} has it")
    model.pos_embed.cropped_pos_embed = partial(_cropped, model.pos_embed)
    side = max(_EXAMPLE_SIDE, 4 * told["patch_size"])
    sample = torch.randn(2, told["in_channels"], side, side)
    tokens, pooled = torch.randn(2, _EXAMPLE_TOKENS, told["joint_attention_dim"]), torch.randn(2, told["pooled_projection_dim"])
    axes = {
        "sample": _IMAGE,
        "timestep": {0: "batch"},
        "encoder_hidden_states": {0: "batch", 1: "tokens"},
        "pooled_projections": {0: "batch"},
    }

    def call(m: Any, sample: Tensor, timestep: Tensor, hidden: Tensor, text: Tensor) -> Any:
        return m(sample, hidden, text, timestep, return_dict=False)[0]

    return Traced(_Wrapped(model, call), (sample, torch.tensor([500.0, 20.0]), tokens, pooled), axes, ("out_sample",))


def _cropped(embed: Any, height: int, width: int) -> Tensor:
    """The middle of the position embeddings, [1, patches, width of the network], as PatchEmbed.cropped_pos_embed has it.

    Cut from the start and then to length: the exporter makes one sum of start + length, whose negative terms ONNX divides
    towards zero, and so is one patch off where the number of patches is odd.
    """
    rows, columns = height // embed.patch_size, width // embed.patch_size
    known: int = embed.pos_embed_max_size
    grid: Tensor = embed.pos_embed.reshape(1, known, known, -1)
    grid = grid[:, (known - rows) // 2 :][:, :rows]
    grid = grid[:, :, (known - columns) // 2 :][:, :, :columns]
    return grid.reshape(1, -1, grid.shape[-1])


def _vae_decoder(layout: Layout, part: str, config: dict[str, Any]) -> Traced:
    model: Any = AutoencoderKL.from_config(config)
    model.encoder, model.quant_conv = torch.nn.Identity(), torch.nn.Identity()
    latent = torch.randn(2, model.config["latent_channels"], _EXAMPLE_SIDE, _EXAMPLE_SIDE)
    return Traced(_Wrapped(model, lambda m, z: m.decode(z, return_dict=False)[0]), (latent,), {"latent_sample": _IMAGE}, ("sample",))
