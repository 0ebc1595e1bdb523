"""The port between the step loop and what runs a model: places that hold images in the making, moved together."""

from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.adapters.lora import Adapter
from serving.samplers import Table

STRICT_ROWS = 8


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """One image takes `place`. `entry` of the adapter bank, 0 for none. Guidance above 1 takes two rows of a call, else one."""

    place: int
    prompt: str
    negative_prompt: str
    seed: int
    table: Table
    guidance: float
    entry: int = 0

    @property
    def rows(self) -> int:
        return 2 if self.guidance > 1 else 1


class Backend(Protocol):
    """One base model at one size on one device.

    `begin`, `advance`, `attach` and `preview` are called by the engine's thread only; `decode` too, unless `decodes_apart`:
    then by one other thread. `admit` is called by a thread that loads, beside a running engine. Whatever raises leaves
    every place as it was.
    """

    decodes_apart: bool
    # images that one decode should take, so that it never delays the steps of others for long
    decode_at_once: int
    model_bytes: int

    @property
    def entry_bytes(self) -> int:
        """What one entry of the adapter bank takes on the device; 0 before the first adapter."""
        ...

    def admit(self, adapter: Adapter, scale: float) -> None:
        """Check that `adapter` fits, and make the network ready for adapters of its kind. May take long. Raises ModelError."""
        ...

    def attach(self, entry: int, adapter: Adapter, scale: float) -> None:
        """Put an admitted adapter into `entry` (≥ 1), over what was there. Quick: rows of a bank are copied."""
        ...

    def begin(self, seats: Sequence[Seat]) -> None:
        """Encode the prompts and draw the noise."""
        ...

    def advance(self, places: Sequence[int]) -> None:
        """One network call and one sampler step for all of `places`, whatever their steps, guidance, sampler and adapter."""
        ...

    def preview(self, places: Sequence[int]) -> NDArray[np.uint8]:
        """The model's present estimate of the finished images, uint8 [n, height, width, 3]."""
        ...

    def decode(self, places: Sequence[int]) -> NDArray[np.uint8]:
        """Finished images, uint8 [n, height, width, 3]."""
        ...

    def synchronize(self) -> None:
        """Wait until what was begun on the device is done."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...
