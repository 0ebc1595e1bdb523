"""How long people of each arm waited lately, and every arm's gap to the control with its interval."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import msgspec
import numpy as np

from analytics.facts import Moments
from gateway.ledger import Life
from gateway.metrics import Labelled, Metrics

WINDOW = 2000
GAP_ALPHA = 0.05
GAPS = {
    "salon_latency_gap_ms": "Mean latency of an arm minus the control's, over the last 2000 requests of each",
    "salon_latency_gap_low_ms": "Lower bound of the 95 % interval of the gap",
    "salon_latency_gap_high_ms": "Upper bound of the 95 % interval of the gap",
}


class Gap(msgspec.Struct, frozen=True):
    """Mean latency of `arm` minus that of the control, in ms; `low` and `high` bound it with probability 95 %."""

    arm: str
    ms: float
    low: float
    high: float


class Latencies:
    """The last 2,000 latencies of each arm of each experiment: queue, model, and what was held back, in ms. Thread-safe."""

    def __init__(self, window: int = WINDOW) -> None:
        self._window = window
        self._arms: dict[str, dict[str, deque[float]]] = {}
        self._lock = threading.Lock()

    def add(self, experiment: str, arm: str, latency_ms: float) -> None:
        """One request whose pictures were made by its arm's own variant."""
        with self._lock:
            self._arms.setdefault(experiment, {}).setdefault(arm, deque(maxlen=self._window)).append(latency_ms)

    def keep(self, experiments: Iterable[str]) -> None:
        """Forget every experiment but these."""
        kept = set(experiments)
        with self._lock:
            self._arms = {name: arms for name, arms in self._arms.items() if name in kept}

    def gaps(self, experiment: str, arms: Sequence[str], control: str) -> list[Gap]:
        """Every arm's gap, by Welch's interval; nothing of an arm with fewer than two latencies, or where none varies.

        Requests are taken as independent. Those of one moment wait for the same work, whatever their arms, which makes the
        true interval narrower rather than wider.
        """
        # Here, so that a gateway that nobody measures loads no scipy.
        from analytics.inference.mean import mean_contrast
        from analytics.inference.tails import two_sided_critical

        with self._lock:
            found = {arm: _moments(list(window)) for arm, window in self._arms.get(experiment, {}).items()}
        gaps = []
        for arm in arms:
            contrast = mean_contrast(found[control], found[arm]) if arm != control and control in found and arm in found else None
            if contrast is None:
                continue
            low, high = contrast.difference_interval(two_sided_critical(GAP_ALPHA, contrast.df))
            if low is not None and high is not None:
                gaps.append(Gap(arm, contrast.difference, low, high))
        return gaps

    def show(self, metrics: Metrics, running: Callable[[], Sequence[Life]]) -> None:
        """Put the gaps of the experiments that run among the metrics."""

        def read() -> list[Labelled]:
            return [
                ((life.name, gap.arm), dict(zip(GAPS, (gap.ms, gap.low, gap.high), strict=True)))
                for life in running()
                for gap in self.gaps(life.name, list(life.declared.arms), life.declared.control)
            ]

        metrics.gauges(GAPS, ("experiment", "arm"), read)


def _moments(latencies_ms: Sequence[float]) -> Moments:
    values = np.asarray(latencies_ms)
    mean = float(values.mean())
    return Moments(n=len(values), mean=mean, m2=float(((values - mean) ** 2).sum()))
