"""e-BH over all comparisons of a report: which of them hold at any look, with the share of false ones below alpha."""

from collections.abc import Sequence

import msgspec

from analytics.inference.e_values import e_bh
from analytics.report.schema import MetricReport


def with_e_bh(metrics: Sequence[MetricReport], alpha: float) -> list[MetricReport]:
    """The same metrics with `e_bh` filled in. A comparison that cannot be tested has no evidence, yet counts."""
    evidence = [0.0 if c.always_valid is None else c.always_valid.e_value for m in metrics for c in m.comparisons]
    rejected = iter(e_bh(evidence, alpha))
    return [
        msgspec.structs.replace(m, comparisons=[msgspec.structs.replace(c, e_bh=next(rejected)) for c in m.comparisons]) for m in metrics
    ]
