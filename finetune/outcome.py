"""What a round says of itself while it runs and when it has ended."""

from datetime import datetime
from typing import Literal

import msgspec

from finetune.gate.gate import Verdict

Stage = Literal["examples", "training", "sweep", "gate", "publish", "record", "announce", "done"]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What `salon finetune status` shows. `share` of the stage is done."""

    round: str
    route: str
    stage: Stage
    detail: str
    share: float
    updated_at: datetime
    pid: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a round ended: `announced`, or `refused` by the gate with the reason. `ref` is the adapter in the registry."""

    round: str
    result: Literal["announced", "refused"]
    reason: str
    champion: str
    loss: str
    scale: float
    ref: str | None
    experiment: str | None
    gate: Verdict
    seconds: dict[str, float]
    finished_at: datetime
