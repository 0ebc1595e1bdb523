"""What a bandit's report says beside the comparisons."""

from datetime import datetime
from html import escape

import msgspec

from analytics.inference.contrast import Interval
from analytics.report.columns import table, wrap
from analytics.report.html_table import html_table
from analytics.report.words import number, p_value, percent

MOST_ROWS = 14
ARMS = ["arm", "units", "lowest propensity", "worth", "estimate", "fixed horizon"]
DIFFERENCES = ["arm", "fixed horizon", "interval", "p"]


class AdaptiveArm(msgspec.Struct, frozen=True, kw_only=True):
    """One arm: `units` drawn in the `stretches` in which it could be; the smallest propensity with which one was; how many units of
    equal propensity they are worth (Kish); the AIPW estimate, and Hadad's for one planned look. None: under 30 units."""

    arm: str
    units: int
    stretches: int
    smallest_propensity: float | None = None
    effective_units: float | None = None
    value: float | None = None
    se: float | None = None
    fixed_value: float | None = None
    fixed_se: float | None = None


class AdaptiveDifference(msgspec.Struct, frozen=True, kw_only=True):
    """Hadad's estimate of `arm` - `vs` for one look planned beforehand, over the stretches in which both could be got."""

    arm: str
    vs: str
    value: float
    se: float
    ci: Interval
    p_value: float


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """Of a stretch, or by units of several `stretches` that began on one day: `weights` per arm, and `units` that came."""

    since: datetime
    stretches: int
    units: int
    weights: dict[str, float]


class AdaptiveReport(msgspec.Struct, frozen=True, kw_only=True):
    """Of the primary metric. Intervals have probability `ci_level` each. `left_out`: stretches in which a pair could not be got, in
    words."""

    policy: str
    floor: float
    metric: str
    ci_level: float
    stretches: int
    arms: list[AdaptiveArm]
    differences: list[AdaptiveDifference]
    weights: list[Weights]
    left_out: list[str]
    warnings: list[str]


def adaptive_lines(report: AdaptiveReport | None) -> list[str]:
    """For the terminal; nothing without it."""
    if report is None:
        return []
    lines = ["", _title(report), *table(ARMS, _arms(report)), *wrap(_note(report), "    ")]
    if report.differences:
        lines += table(DIFFERENCES, _differences(report))
    for sentence in report.left_out:
        lines += wrap(sentence, "    ")
    names = [one.arm for one in report.arms]
    return [*lines, "", "Weights over time", *table(["since", "units", *names], _weights(report))] if report.weights else lines


def adaptive_section(report: AdaptiveReport | None) -> str:
    """For the page; empty without it."""
    if report is None:
        return ""
    parts = [html_table(ARMS, _arms(report)), f'<p class="legend">{escape(_note(report))}</p>']
    if report.differences:
        parts.append(html_table(DIFFERENCES, _differences(report)))
    parts += [f"<p>{escape(sentence)}</p>" for sentence in report.left_out]
    if report.weights:
        parts.append(html_table(["since (UTC)", "units"], _weights(report), [one.arm for one in report.arms]))
    return f"<section><h2>{escape(_title(report))}</h2>{''.join(parts)}</section>"


def _title(report: AdaptiveReport) -> str:
    return f"Adaptive weights on {report.metric} ({report.policy.replace('_', '-')}, floor {percent(report.floor)})"


def _note(report: AdaptiveReport) -> str:
    return (
        "Estimate: AIPW. Worth: units of equal propensity that would tell as much. Fixed horizon: times at which an arm was rare "
        f"count less (Hadad et al. 2021); for one look planned beforehand, at {report.ci_level * 100:.3g}%."
    )


def _arms(report: AdaptiveReport) -> list[list[str]]:
    return [
        [
            one.arm,
            f"{one.units:,}",
            "–" if one.smallest_propensity is None else percent(one.smallest_propensity),
            "–" if one.effective_units is None else f"{one.effective_units:,.0f}",
            _measured(one.value, one.se),
            _measured(one.fixed_value, one.fixed_se),
        ]
        for one in report.arms
    ]


def _measured(value: float | None, se: float | None) -> str:
    return "–" if value is None or se is None else f"{number(value, 'mean')} ± {se:.2g}"


def _differences(report: AdaptiveReport) -> list[list[str]]:
    return [[one.arm, f"{one.value:+.4g}", f"[{one.ci[0]:+.4g}, {one.ci[1]:+.4g}]", p_value(one.p_value)] for one in report.differences]


def _weights(report: AdaptiveReport) -> list[list[str]]:
    """The latest ones."""
    return [
        [f"{one.since:%Y-%m-%d %H:%M}", f"{one.units:,}", *(percent(one.weights.get(arm.arm, 0.0)) for arm in report.arms)]
        for one in report.weights[-MOST_ROWS:]
    ]
