"""Somebody reads the report at every look of one simulated experiment: what was ever claimed?"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fixed_horizon import covers
from streams import Measure, Totals
from sums import Rows, later

from analytics.experiment import Experiment
from analytics.report.build import build_report
from analytics.report.schema import Report

# A sequence at alpha 0.05 needs over three standard errors, whatever the number of units: far below, no report can claim anything.
SCREEN = 2.5
ALPHA = 0.05
CONTROL_STEP = 4


@dataclass(frozen=True)
class Reader:
    """How an experiment is declared, the truth about its primary metric "m", and from how many units per arm on it is read.

    `screened`: looks at which every metric is within 2.5 standard errors of the truth and of 0 are not read, as nothing can be
    claimed there; but the primary metric's furthest look is, for the p-value. Every first run of a share is read at every 4th look too,
    and what the screen would have missed is counted.
    """

    measures: Mapping[str, Measure]
    truth: Mapping[str, float] = field(default_factory=dict)
    lift: Mapping[str, float] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    from_units: int = 100
    screened: bool = True

    def experiment(self, totals: Totals) -> Experiment:
        """Arms and weights as at the end of the schedule."""
        weights = totals.schedule.periods[-1][1]
        given: dict[str, Any] = {"route": "hero", "arms": weights, "control": totals.schedule.arms[0], "primary": "m"}
        return Experiment(**(given | dict(self.changes)))

    def read(self, totals: Totals, turn: int) -> dict[str, float]:
        """What the looks of run number `turn` ever said; see `_claims` for the words."""
        experiment, metrics = self.experiment(totals), {name: one.metric for name, one in self.measures.items()}
        large = totals.smallest_arm() >= self.from_units
        suspect = self._suspect(totals, large) if self.screened else large
        control = self.screened and turn == 0
        looked = suspect | (large & (np.arange(len(large)) % CONTROL_STEP == 0)) if control else suspect
        ever: dict[str, float] = {}
        missed = 0
        for look in np.flatnonzero(looked):
            at = later(float(totals.schedule.looks[look]))
            report = build_report("simulated", experiment, metrics, totals.facts(int(look), self.measures), at)
            said = self._claims(report)
            missed += bool(not suspect[look] and (any(said[key] for key in ("claimed", "outside", "lift outside", "fdr", "rollback"))))
            if said["claimed"] and "units" not in ever:
                ever["units"] = float(totals.units()[look])
            ever = {**ever, **{key: max(value, ever.get(key, 0.0)) for key, value in said.items()}}
        # A run without a look worth reading said nothing wrong.
        found = {"outside": 0.0, "lift outside": 0.0, "ship": 0.0, "claimed": 0.0, "rollback": 0.0, "fixed p": 0.0, "fdr": 0.0}
        found |= {"secondary": 0.0} if "secondary" in self.changes else {}
        found |= ever
        return found | ({"missed": float(missed)} if control else {})

    def _suspect(self, totals: Totals, large: Rows) -> Rows:
        primary = np.where(large, totals.furthest(self.measures["m"], self.truth, self.lift), 0.0)
        others = [totals.furthest(one, {}, {}) for name, one in self.measures.items() if name != "m"]
        suspect = large & (np.max([primary, *others], axis=0) > SCREEN)
        if large.any():
            suspect[primary.argmax()] = True
        return suspect

    def _claims(self, report: Report) -> dict[str, float]:
        """0 or 1 each. outside: the always-valid interval of a difference leaves out the truth; claimed: an arm is called better
        or worse; fixed p: the adjusted p for one look is at most 0.05; secondary: an always-valid one is; fdr: e-BH rejects."""
        primary = report.metrics[0]
        said = {
            "ship": float(report.decision.action == "ship"),
            "claimed": float(report.decision.action == "ship" or (report.decision.action == "stop" and report.decision.arm is not None)),
            "rollback": float(report.decision.action == "rollback"),
            "invalid": float(report.decision.action == "invalid"),
            "fixed p": float(any(c.adjusted_p_value is not None and c.adjusted_p_value <= ALPHA for c in primary.comparisons)),
            "fdr": float(any(c.e_bh for metric in report.metrics for c in metric.comparisons)),
            "outside": 0.0,
            "lift outside": 0.0,
        }
        for comparison in primary.comparisons:
            sequence = comparison.always_valid
            if sequence is not None:
                truth, lift = self.truth.get(comparison.arm, 0.0), self.lift.get(comparison.arm, 0.0)
                said["outside"] = max(said["outside"], 1 - covers(sequence.difference_ci, truth))
                said["lift outside"] = max(said["lift outside"], 1 - covers(sequence.relative_ci, lift))
            if comparison.guaranteed is not None:
                wrong = 1 - covers(comparison.guaranteed.difference_ci, self.truth.get(comparison.arm, 0.0))
                said["guaranteed outside"] = max(said.get("guaranteed outside", 0.0), wrong)
            if comparison.group_sequential is not None:
                said["crossed"] = max(said.get("crossed", 0.0), float(comparison.group_sequential.crossed))
        for metric in report.metrics:
            if metric.role == "secondary":
                found = any(c.always_valid is not None and c.always_valid.p_value <= ALPHA for c in metric.comparisons)
                said["secondary"] = max(said.get("secondary", 0.0), float(found))
            if metric.role == "guardrail":
                for c in metric.comparisons:
                    said["guardrail broken"] = max(said.get("guardrail broken", 0.0), float(c.ok is False))
                    said["guardrail holds"] = max(said.get("guardrail holds", 0.0), float(c.ok is True))
        return said
