"""The names that the first Stable Diffusion code gave to the layers of a UNet; kohya's tools write them for SDXL."""

import re
from collections.abc import Iterable

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_OUTSIDE = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip
_INSIDE = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def original_names(layers: Iterable[str]) -> dict[str, str]:
    """Each layer of a diffusers UNet by its original name; layers that are no UNet's are left out.

    The original code numbers the resnets of all blocks in one row, with the change of size after each block's.
    """
    known = list(layers)
    resnets = [int(found[1]) + 1 for name in known if (found := re.match(r"down_blocks\.0\.resnets\.(\d+)\.", name))]
    if not resnets:
        return {}
    attending = {found[1] for name in known if (found := re.match(r"up_blocks\.(\d+)\.attentions\.", name))}
    named = ((_original(name, max(resnets), attending), name) for name in known)
    return {original: name for original, name in named if original is not None}


def _original(name: str, resnets: int, attending: set[str]) -> str | None:
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    if found := _MIDDLE.fullmatch(name):
        kind, index, rest = found.groups()
        return f"middle_block.1.{rest}" if kind == "attentions" else f"middle_block.{2 * int(index)}.{_RESNET.get(rest, rest)}"
    if not (found := _INSIDE.fullmatch(name)):
        return None
    way, block, kind, index, rest = found.groups()
    at = int(block) * (resnets + 1) + int(index)
    if kind == "downsamplers":
        return f"input_blocks.{at + resnets + 1}.0.op"
    if kind == "upsamplers":
        return f"output_blocks.{at + resnets}.{2 if block in attending else 1}.conv"
    place = f"input_blocks.{at + 1}" if way == "down" else f"output_blocks.{at}"
    return f"{place}.1.{rest}" if kind == "attentions" else f"{place}.0.{_RESNET.get(rest, rest)}"
