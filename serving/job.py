"""What an engine is asked for, and what it answers."""

from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.variant import Variant

Pixels = NDArray[np.uint8]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One image to make. The low 64 bits of `seed` count.

    `steps` and `guidance` stand for the variant's own when given; `previews` is how many unfinished pictures the
    watcher gets on the way, at even distances.
    """

    variant: Variant
    prompt: str
    negative_prompt: str = ""
    seed: int
    steps: int | None = None
    guidance: float | None = None
    previews: Annotated[int, msgspec.Meta(ge=0, le=8)] = 0


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """`rgb` is uint8 [height, width, 3], or empty where `encoded` is the picture as a file.

    Milliseconds: `queue_ms` waited before the first step, `service_ms` from there to the pixels. `rows` of a network
    call that the image took at each of its `steps`; `batch_rows`: of the calls that it was in, on average, companions included.
    """

    rgb: Pixels
    queue_ms: float
    service_ms: float
    steps: int = 0
    rows: int = 0
    batch_rows: float = 0.0
    encoded: bytes = b""


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """What the image looks like after `step` of `steps`, and the predicted milliseconds until it is done."""

    rgb: Pixels
    index: int
    step: int
    steps: int
    remaining_ms: float


class Loaded(msgspec.Struct, frozen=True):
    """A variant that is ready: its digest, the size of its images in pixels, and the lane that draws it."""

    digest: str
    width: int
    height: int
    lane: str = ""
