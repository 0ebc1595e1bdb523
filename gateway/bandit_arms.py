"""Arms that join a bandit while it runs, or leave it: what the others have learned stays."""

import math
from collections.abc import Mapping


def joined(now: Mapping[str, float], before: Mapping[str, float], declared: Mapping[str, float]) -> dict[str, float]:
    """The weights after a file has changed from `before` to `declared`, where they were `now`.

    An arm that is new, or was declared 0, takes what it is declared with; one that is declared 0 gets 0; the others share the rest
    as they did. Where no arm comes or goes the file's weights are meant, and hold.
    """
    coming = {arm: weight for arm, weight in declared.items() if weight > 0 and not before.get(arm, 0.0) > 0}
    going = [arm for arm, weight in declared.items() if weight == 0 and before.get(arm, 0.0) > 0]
    if not coming and not going:
        return dict(declared)
    staying = {arm: now.get(arm, 0.0) for arm in declared if arm not in coming and declared[arm] > 0}
    old, new = math.fsum(staying.values()), math.fsum(coming.values())
    rest = 1 - new if old > 0 else 0.0
    weights = {arm: weight * rest / old for arm, weight in staying.items()} if old > 0 else dict.fromkeys(staying, 0.0)
    weights |= coming if old > 0 else {arm: weight / new for arm, weight in coming.items()}
    if not math.fsum(weights.values()) > 0:
        return dict(declared)
    largest = max(weights, key=lambda arm: weights[arm])
    weights[largest] = 1 - math.fsum(weight for arm, weight in weights.items() if arm != largest)
    return {arm: weights.get(arm, 0.0) for arm in declared}
