"""A training's knobs and its progress, apart from torch."""

from typing import Annotated, Literal

import msgspec

Loss = Literal["kto", "rwr", "dpo"]


class Training(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every knob of one training, with what it does.

    `steps` times `batch` is the number of (picture, t) pairs; `max_seconds` shortens `steps` after the first few were
    timed, so that the decay of the learning rate still reaches its end. `learning_rate` is for a LoRA of rank `rank`.
    `beta_sum` is KTO's and DPO's strength times latent dimensions: 0.31 is the papers' 5000 at 4 x 64 x 64; smaller
    moves further from the champion. `temperature` is RWR's: smaller listens more to the likes. `liked_share` of each
    batch are likes (KTO), at most 0.8: KTO degenerates without negatives. `empty_prompt_share` hears no prompt, so that
    guidance keeps its other leg. `click_noise` is the chance that a choice was an accident (DPO). `threads` is torch's.
    """

    loss: Loss = "kto"
    steps: Annotated[int, msgspec.Meta(ge=1)] = 120
    batch: Annotated[int, msgspec.Meta(ge=2)] = 32
    learning_rate: Annotated[float, msgspec.Meta(gt=0)] = 1e-3
    rank: Annotated[int, msgspec.Meta(ge=1)] = 8
    beta_sum: Annotated[float, msgspec.Meta(gt=0)] = 0.31
    temperature: Annotated[float, msgspec.Meta(gt=0)] = 0.4
    liked_share: Annotated[float, msgspec.Meta(ge=0.2, le=0.8)] = 0.5
    empty_prompt_share: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.1
    click_noise: Annotated[float, msgspec.Meta(ge=0, lt=0.5)] = 0.05
    weight_decay: Annotated[float, msgspec.Meta(ge=0)] = 1e-4
    gradient_norm: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    warm_up_steps: Annotated[int, msgspec.Meta(ge=0)] = 8
    max_seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None
    checkpoint_seconds: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    threads: Annotated[int, msgspec.Meta(ge=1)] = 1
    seed: int = 0


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a training is. `gained_*`: mean implicit log-ratio (reference error minus error) of liked and other pictures."""

    loss: str
    step: int
    steps: int
    seconds: float
    value: float
    gained_liked: float
    gained_unliked: float
