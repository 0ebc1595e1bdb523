"""The position model fitted to the facts: cells, arms without and with the correction, trust."""

import math

import numpy as np

from analytics.experiment import Experiment
from analytics.facts_of_designs import GridFacts, PlaceFacts
from analytics.inference.position import (
    Floats,
    PositionFit,
    Rates,
    Tally,
    inverse_rates,
    likely_rates,
    log_interval,
    p_of,
    position_fit,
    raw_rates,
    tally,
    too_little,
)
from analytics.inference.tails import two_sided_critical
from analytics.inference.trust import alike, trust_fit, trust_test
from analytics.report.position import CellReport, GridReport, PlacedArm, PlacedValue, PositionReport, Trust, TrustedCell

# Arms that do not differ at this level cannot tell trust from examination.
ALIKE = 0.05
BANDIT = "Weights followed what was clicked: rates of arms, raw or corrected, are no estimates of a bandit, and are left out."
SWITCHBACK = "Arms took turns: that differences between them are theirs and not the hour's, the comparison of blocks tells."
ONE_ARM = "Trust cannot be told from examination: only one arm has events here."


def position_report(experiment: Experiment, places: PlaceFacts | None) -> PositionReport | None:
    """None without grids of several pictures. Intervals have 1 - alpha, for one look."""
    if places is None:
        return None
    return PositionReport(
        event=places.event,
        ci_level=1 - experiment.alpha,
        one_in=places.one_in,
        left_out=places.left_out,
        grids=[_grid(experiment, grid) for grid in places.grids],
    )


def _grid(experiment: Experiment, facts: GridFacts) -> GridReport:
    counts = tally(facts.by_arm, len(experiment.arms), facts.grid)
    reason = too_little(counts, facts.units)
    fit = None
    if not reason:
        try:
            fit = position_fit(counts)
        except ArithmeticError as error:
            reason = str(error)
    if fit is None:
        return _told(facts, [], [], None, [f"No model yet: {reason}."])
    critical = two_sided_critical(experiment.alpha)
    trust, said = _trust(counts, fit)
    arms = [] if experiment.design == "bandit" else _arms(experiment, counts, fit, critical)
    notes = {"bandit": [BANDIT], "switchback": [SWITCHBACK]}.get(experiment.design, [])
    return _told(facts, _cells(counts, fit, critical), arms, trust, [*notes, *said])


def _told(facts: GridFacts, cells: list[CellReport], arms: list[PlacedArm], trust: Trust | None, said: list[str]) -> GridReport:
    return GridReport(
        layout=facts.layout, grid=facts.grid, pictures=facts.pictures, units=facts.units, cells=cells, arms=arms, trust=trust, said=said
    )


def _cells(counts: Tally, fit: PositionFit, critical: float) -> list[CellReport]:
    shown, events = counts.shown.sum(axis=0), counts.got.sum(axis=0)
    errors = fit.examination * np.sqrt(np.diagonal(counts.variance(fit.examination_weights)))
    return [
        CellReport(
            cell=cell,
            shown=int(shown[cell]),
            events=int(events[cell]),
            rate=float(events[cell] / shown[cell]),
            examination=_value(float(fit.examination[cell]), float(errors[cell]), critical),
        )
        for cell in range(len(shown))
    ]


def _arms(experiment: Experiment, counts: Tally, fit: PositionFit, critical: float) -> list[PlacedArm]:
    names = list(experiment.arms)
    control, shown = names.index(experiment.control), counts.shown.sum(axis=1)
    raw, inverse, likely = raw_rates(counts), inverse_rates(counts, fit), likely_rates(fit)
    raw_values, inverse_values, likely_values = (_values(counts, rates, critical) for rates in (raw, inverse, likely))
    return [
        PlacedArm(
            arm=name,
            shown=int(shown[row]),
            events=int(counts.got[row].sum()),
            raw=raw_values[row],
            ips=inverse_values[row],
            mle=likely_values[row],
            raw_lift=_lift(counts, raw, control, row, critical),
            corrected_lift=_lift(counts, likely, control, row, critical),
        )
        for row, name in enumerate(names)
        if shown[row]
    ]


def _values(counts: Tally, rates: Rates, critical: float) -> list[PlacedValue]:
    errors = np.sqrt(np.maximum(0.0, np.diagonal(counts.variance(rates.weights))))
    return [_value(float(value), float(error), critical) for value, error in zip(rates.value, errors, strict=True)]


def _value(value: float, error: float, critical: float) -> PlacedValue:
    se = error if value > 0 else None
    return PlacedValue(value=value, se=se, ci=log_interval(value, se, critical))


def _lift(counts: Tally, rates: Rates, control: int, row: int, critical: float) -> PlacedValue | None:
    """Of the row against the control, on the scale of logarithms; None for the control itself, or where one of them has nothing."""
    if row == control or rates.value[control] <= 0 or rates.value[row] <= 0:
        return None
    weights: Floats = rates.weights[row] / rates.value[row] - rates.weights[control] / rates.value[control]
    ratio = float(rates.value[row] / rates.value[control])
    se = ratio * math.sqrt(max(0.0, float(weights @ counts.cross @ weights)))
    low, high = log_interval(ratio, se, critical)
    assert low is not None and high is not None
    return PlacedValue(value=ratio - 1, se=se, ci=(low - 1, high - 1))


def _trust(counts: Tally, fit: PositionFit) -> tuple[Trust | None, list[str]]:
    same, test = p_of(alike(counts, fit)), trust_test(counts, fit)
    if same is None or test is None:
        return None, [ONE_ARM]
    if same >= ALIKE:
        return None, [f"Trust cannot be told from examination: the arms attract too much alike here (p = {same:.2g} that they do)."]
    found, p = trust_fit(counts, fit), p_of(test)
    assert p is not None
    cells = [
        TrustedCell(
            cell=cell,
            slope=float(found.slope[cell]),
            slope_se=float(found.slope_se[cell]),
            floor=float(found.floor[cell]),
            floor_se=float(found.floor_se[cell]),
        )
        for cell in (range(len(found.slope)) if found is not None else ())
        if found is not None
    ]
    return Trust(p_value=p, likelihood_ratio=found.likelihood_ratio if found else None, df=test[1], cells=cells), []
