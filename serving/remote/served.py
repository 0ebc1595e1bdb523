"""What a worker has ready: where a variant is asked for, and in which tensors."""

import msgspec

from serving.job import Loaded


class Declared(msgspec.Struct, frozen=True):
    """A tensor of the model's metadata. -1 in the shape: any size."""

    name: str
    datatype: str
    shape: tuple[int, ...] = (-1,)


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """A variant on one worker. `label` is sent as VARIANT; `path` takes the requests.

    `ours`: the worker is Salon's. It knows the variant's own values, takes one value for all images, and predicts its backlog.
    """

    loaded: Loaded
    path: str
    label: str
    inputs: dict[str, Declared]
    outputs: tuple[str, ...]
    ours: bool = False

    @property
    def one_at_a_time(self) -> bool:
        """The server makes one image per request."""
        return self.inputs["PROMPT"].shape[:1] == (1,)
