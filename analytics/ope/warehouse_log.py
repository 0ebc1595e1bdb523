"""An experiment in the warehouse as a log of draws: units by arm, logged propensity and context; no rows of people leave it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from analytics.analyze.table import Codes
from analytics.designs import MIXED
from analytics.experiment import BUILT_IN_METRICS, Experiment, Metric
from analytics.nearest import nearest
from analytics.ope.logged import Chunk, Key, Log
from analytics.ope.policy_table import Policy
from analytics.ope.reward_model import FOLDS
from analytics.report.command import catch_up, find
from analytics.settings import Document, analytics_settings
from analytics.warehouse.client import Warehouse
from analytics.warehouse.controls import first_start, read_controls, weight_periods
from analytics.warehouse.figures import NO_VALUE, Figures, Stretches
from analytics.warehouse.rows import microseconds
from analytics.warehouse.scope import Scope
from analytics.warehouse.snapshot import open_readable
from analytics.warehouse.source import current_source
from analytics.warehouse.unit_events import exposure_span, loaded
from analytics.warehouse.unit_states import lay_out, looks_back
from analytics.warehouse.unit_table import units_of

WITHOUT_ARMS = {
    "interleave": "one grid holds pictures of several arms",
    "duel": "two arms stand side by side",
    "switchback": "an arm belongs to a block of time and all who come in it",
}


def read_experiment(name: str, metric: str | None, policy: Policy, config: Path | None) -> Log:
    """What `salon report` reads, of a proportion or a mean per unit (None: the primary). Raises ValueError (unknown experiment or
    metric, a design or metric without one arm and one number per unit), OSError (warehouse out of reach)."""
    settings = analytics_settings(Document.read(config))
    with open_readable(settings) as warehouse:
        catch_up(settings, warehouse)
        experiment = find(name, settings.experiments, warehouse)
        asked = metric or experiment.primary
        refuse_unfit(name, experiment, asked, settings.metrics)
        return read_units(warehouse, name, experiment, asked, settings.metrics[asked], policy)


def refuse_unfit(name: str, experiment: Experiment, asked: str, metrics: Mapping[str, Metric]) -> None:
    """Raises ValueError where there is not one arm and one number per unit."""
    if experiment.design in (*MIXED, "switchback"):
        why = WITHOUT_ARMS[experiment.design]
        raise ValueError(
            f'{name!r} is of design = "{experiment.design}": {why}, so no unit has an arm of its own that a policy could change'
        )
    if asked not in metrics and asked not in BUILT_IN_METRICS:
        raise ValueError(f"no metric {asked!r}; {nearest(asked, metrics)}")
    if asked in BUILT_IN_METRICS or metrics[asked].inferred_as not in ("proportion", "mean"):
        kind = "no number per unit" if asked in BUILT_IN_METRICS else f"a {metrics[asked].inferred_as}"
        raise ValueError(f"{asked!r} is {kind}; a policy's value is a mean per unit: take a proportion or a mean with --metric")


def read_units(warehouse: Warehouse, name: str, experiment: Experiment, asked: str, metric: Metric, policy: Policy) -> Log:
    """Grouped in the warehouse by arm, propensity, the policy's contexts (of the first exposure) and fold.

    Units that came while not every arm that the policy wants could be drawn (one was added, or retired) are left out: they tell
    nothing of it. Raises ValueError where no unit was exposed, or none had one of the contexts; LookupError (no tables), OSError.
    """
    contexts = policy.columns
    wanted = {arm for arm, most in zip(policy.actions, policy.probability.max(axis=0).tolist(), strict=True) if most > 0}
    controls = read_controls(warehouse, Scope(name, None))
    started_at = first_start(controls)
    drawable = _drawable(weight_periods(controls, experiment, started_at) if started_at else [], wanted & set(experiment.arms))
    # Without a primary metric, what else a report would read of it is not laid out.
    only = msgspec.structs.replace(experiment, primary="", breakdowns=tuple(contexts), strata=None, guardrails={}, secondary=())
    metrics = {asked: msgspec.structs.replace(metric, covariate_days=None, covariates=())}
    with loaded(warehouse, current_source(warehouse, name), *looks_back(only, metrics)) as source:
        span = exposure_span(warehouse, source)
        if not span[0]:
            raise ValueError(f"no unit of {name!r} has been exposed yet; there is nothing to estimate from")
        layout = lay_out(source, only, metrics, span, 0)
        with units_of(warehouse, layout) as units:
            cap = Figures(units, layout, only, metrics).caps.get(asked)
            y = layout.outcomes[asked].y
            y = y if cap is None else f"least({y}, {cap!r})"
            keys = "".join(f"{layout.dimensions[key]}, " for key in contexts)
            # The instant of the exposure tells as little of the reward as the unit's name, which is not here.
            fold = f"toUInt8(cityHash64(exposed_at) % {FOLDS}) AS fold"
            known = "isFinite(chance) AND chance > 0"
            rows = units.query(f"""SELECT arm, {keys}{known} AS has_chance, if({known}, chance, 1) AS propensity, {fold},
                count(), avg({y}), varPopStable({y}), ({drawable}) AS drawable FROM {units.table} WHERE arm > 0
                GROUP BY arm, {keys}has_chance, propensity, fold, drawable ORDER BY arm, {keys}propensity, fold""")
    return _log(name, experiment, rows, contexts)


def _log(name: str, experiment: Experiment, rows: Sequence[tuple[object, ...]], contexts: Sequence[str]) -> Log:
    width = len(contexts)
    without = sum(int(str(row[4 + width])) for row in rows if not row[1 + width])
    with_chance = [row for row in rows if row[1 + width]]
    drawable = [row for row in with_chance if row[7 + width]]
    notes = [f"{without:,} units without a logged propensity are left out."] if without else []
    if drawable and len(drawable) < len(with_chance):
        late = sum(int(str(row[4 + width])) for row in with_chance if not row[7 + width])
        notes.append(f"{late:,} units that came while not every arm that the policy wants could be drawn are left out.")
        with_chance = drawable  # if they could never be drawn together, the mean weight tells
    if not with_chance:
        raise ValueError(f"no unit of {name!r} that counts has a logged propensity; there is nothing to estimate from")
    arms = list(experiment.arms)
    keys, codes = [], np.zeros((len(with_chance), width), dtype=np.int64)
    for column, key in enumerate(contexts):
        values = [str(row[1 + column]) or NO_VALUE for row in with_chance]
        if set(values) == {NO_VALUE}:
            raise ValueError(f"the policy depends on {key!r}, which no exposure of {name!r} has in its context; leave the column out")
        names = sorted(set(values))
        codes[:, column] = [names.index(value) for value in values]
        keys.append(Key(key, names))
    numbers = np.array([[float(str(value)) for value in row[2 + width : 7 + width]] for row in with_chance])
    propensity, fold, count, mean, variance = numbers.T
    chunk = Chunk(
        action=np.array([int(str(row[0])) - 1 for row in with_chance], dtype=np.int64),
        keys=codes,
        propensity=propensity,
        fold=_codes(fold),
        rows=count,
        mean=mean,
        m2=variance * count,
        shown=np.ones(len(with_chance), dtype=bool),
        prediction=None,
    )
    return Log(action="arm", actions=arms, keys=tuple(keys), chunks=lambda: iter([chunk]), rows="units", notes=tuple(notes))


def _drawable(stretches: Stretches, wanted: set[str]) -> str:
    """Whether a unit came while every wanted arm had a weight. Exposures before the first stretch belong to it."""
    starts = [0, *(microseconds(at) for at, _ in stretches[1:])]
    could = [all(weights.get(arm, 0.0) > 0 for arm in wanted) for _, weights in stretches]
    # Only where it changes: weights may have moved thousands of times.
    turns = [i for i, now in enumerate(could) if now != (could[i - 1] if i else True)]
    ends = [*(starts[i] for i in turns[1:]), None]
    out = [(starts[i], end) for i, end in zip(turns, ends, strict=False) if not could[i]]
    parts = [f"(exposed_at >= {since}{'' if until is None else f' AND exposed_at < {until}'})" for since, until in out]
    return f"NOT ({' OR '.join(parts)})" if parts else "true"


def _codes(numbers: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> Codes:
    return numbers.astype(np.int64)
