"""What the text encoders of a layout say of a prompt, put together as its network takes it."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from serving.layouts import STABLE_DIFFUSION, STABLE_DIFFUSION_XL
from serving.model import Model

Array = NDArray[np.float32]
# The network's inputs that depend on the prompt, one row of each, by the input's name.
Conditioning = dict[str, Array]
# What StableDiffusion3Pipeline gives T5: its max_sequence_length.
T5_TOKENS = 256


def condition(model: Model, said: Mapping[str, tuple[Array, ...]]) -> list[Conditioning]:
    """One conditioning per prompt from what each text encoder `said`, by part: states [n, tokens, width], and, where the
    encoder has a projection, embeddings [n, width].

    Stable Diffusion 1.x takes the states as they are. SDXL takes those of both encoders side by side, the second's embedding,
    and the size of the picture (Podell et al. 2023, sections 2.1 and 2.2). Stable Diffusion 3 takes those of two CLIPs side by
    side, filled up with zeros to T5's width, then T5's states, or zeros in their place, and both embeddings (Esser et al. 2024,
    section 5.1).
    """
    first = said["text_encoder"]
    if model.layout.pipeline == STABLE_DIFFUSION.pipeline:
        return [{"encoder_hidden_states": states} for states in first[0]]
    second = said["text_encoder_2"]
    side_by_side = np.concatenate([first[0], second[0]], axis=-1)
    if model.layout.pipeline == STABLE_DIFFUSION_XL.pipeline:
        # the size asked for, no crop, the size drawn: as the pipeline says where nobody says otherwise
        size = np.array([model.height, model.width, 0, 0, model.height, model.width], np.float32)
        return [
            {"encoder_hidden_states": states, "text_embeds": embedding, "time_ids": size}
            for states, embedding in zip(side_by_side, second[1], strict=True)
        ]
    count, width = len(side_by_side), model.network.joint_attention_dim
    t5 = said["text_encoder_3"][0] if "text_encoder_3" in said else np.zeros((count, T5_TOKENS, width), np.float32)
    filled = np.pad(side_by_side, ((0, 0), (0, 0), (0, width - side_by_side.shape[-1])))
    states, embeddings = np.concatenate([filled, t5], axis=1), np.concatenate([first[1], second[1]], axis=-1)
    return [{"encoder_hidden_states": s, "pooled_projections": e} for s, e in zip(states, embeddings, strict=True)]


def without_negative(model: Model, conditioning: Conditioning) -> Conditioning:
    """What stands against `conditioning` where nobody wrote a negative prompt and the model wants zeros then."""
    zeros = {name: np.zeros_like(array) for name, array in conditioning.items() if name != "time_ids"}
    return {**conditioning, **zeros}
