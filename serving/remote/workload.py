"""What one worker still has to do, as far as its client can know."""

_NEW = 0.2
_UNKNOWN_MS = 1.0


class Workload:
    """Predicted milliseconds of work: what this client sent and has not got back, and what the worker told of others.

    A worker reports its whole backlog with each answer. What is not ours in it is taken to shrink as time passes.
    """

    def __init__(self) -> None:
        self._own_ms = 0.0
        self._others_ms, self._reported_at = 0.0, 0.0
        self._pace: dict[str, float] = {}

    def begin(self, ms: float) -> None:
        """Work was sent."""
        self._own_ms += ms

    def end(self, ms: float) -> None:
        """Work came back, or never will."""
        self._own_ms = max(0.0, self._own_ms - ms)

    def reported(self, backlog_ms: float, now: float) -> None:
        """The worker's own prediction at `now` (seconds), with our work in it."""
        self._others_ms, self._reported_at = max(0.0, backlog_ms - self._own_ms), now

    def backlog_ms(self, now: float) -> float:
        """Predicted milliseconds until the worker would begin with something new."""
        return self._own_ms + max(0.0, self._others_ms - 1000.0 * (now - self._reported_at))

    def pace_ms(self, lane: str) -> float | None:
        """Milliseconds of the device for one row of one step; None before the first picture of the lane."""
        return self._pace.get(lane)

    def learn(self, lane: str, ms_per_row_step: float) -> None:
        """An observation; recent ones count most."""
        before = self._pace.get(lane)
        self._pace[lane] = ms_per_row_step if before is None else before + _NEW * (ms_per_row_step - before)

    def forget(self) -> None:
        """The worker died, and its work with it."""
        self._others_ms = 0.0


def row_steps(steps: int, guidance: float, images: int) -> int:
    """Rows of network calls that `images` take in all: two a step with guidance, else one."""
    return images * steps * (2 if guidance > 1 else 1)


def predicted_ms(rows: int, lane: str, worker: Workload, others: "list[Workload]") -> float:
    """Milliseconds that `rows` of one step each take at `worker`, by its own pace or that of the others."""
    pace = worker.pace_ms(lane)
    if pace is None:
        known = [other for each in others if (other := each.pace_ms(lane)) is not None]
        pace = sum(known) / len(known) if known else _UNKNOWN_MS
    return rows * pace
