"""Which units a report leaves out, and why: by the experiment's rules, and for what trained one of its arms; columns of every unit."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from analytics.experiment import Experiment, Filter
from analytics.warehouse.source import Parameters, Source
from analytics.warehouse.unit_numbers import MICROSECONDS_PER_HOUR

RULES = ("units", "context", "events_per_hour")


class Column(NamedTuple):
    """Of a unit: its name in the table, its type, and what it is of the unit `u`."""

    name: str
    type: str
    sql: str


def fixed_columns(source: Source, experiment: Experiment, parameters: Parameters) -> tuple[Column, ...]:
    """The columns that every table of units has."""
    arms = parameters.add("Array(String)", list(experiment.arms))
    exclude, rules = experiment.exclude, []
    if exclude.units:
        rules.append(("units", unit_pattern("u.unit", exclude.units, parameters)))
    if exclude.context:
        rules.append(("context", fits("u.context", exclude.context, parameters)))
    if exclude.events_per_hour_above is not None:
        # Pictures and exposures follow from requests.
        times = source.rows(
            "experiment = {experiment:String} AND kind NOT IN ('exposure', 'image', 'control') AND unit != ''",
            "r.unit AS unit, arrayJoin(r.times_) AS t",
        )
        hour, most = f"intDiv(t, {MICROSECONDS_PER_HOUR})", float(exclude.events_per_hour_above)
        busy = f"SELECT unit FROM {times} GROUP BY unit, {hour} HAVING count() > {most!r}"
        rules.append(("events_per_hour", f"u.unit IN ({busy})"))
    rule = "".join(f"{condition}, {RULES.index(name) + 1}, " for name, condition in rules)
    return (
        Column("drawn", "UInt8", f"toUInt8(indexOf({arms}, u.first_arm))"),
        # A bandit's unit counts where it was drawn first, whatever it met when weights had moved.
        Column("several", "UInt8", "toUInt8(0)" if experiment.design == "bandit" else "u.several"),
        Column("rule", "UInt8", f"toUInt8(multiIf({rule}0))" if rules else "toUInt8(0)"),
        Column("trained", "UInt8", f"toUInt8(u.unit IN ({_trained(source)}))"),
        Column("suspicious", "UInt8", _suspicious(source)),
        Column("exposed_at", "Int64", "u.exposed_at"),
        Column("chance", "Float64", "u.chance"),
    )


def fits(context: str, wanted: Filter, parameters: Parameters) -> str:
    """Whether a map of attributes has one of the wanted values under every key."""
    parts = []
    for key, value in wanted.items():
        values = [value] if isinstance(value, str) else list(value)
        parts.append(f"{context}[{parameters.add('String', key)}] IN {parameters.add('Array(String)', values)}")
    return " AND ".join(parts) or "1"


def unit_pattern(unit: str, patterns: Sequence[str], parameters: Parameters) -> str:
    """Whether a unit fits one of the shell patterns."""
    pattern = "|".join(map(_expression, patterns))
    return f"match({unit}, {parameters.add('String', f'^(?s:{pattern})$')})"


def _trained(source: Source) -> str:
    """Units whose feedback trained a variant that an arm of the experiment served."""
    served = source.rows("experiment = {experiment:String} AND kind IN ('exposure', 'generation', 'image')", "DISTINCT r.digest AS digest")
    digests = f"SELECT digest FROM {served} WHERE digest != ''"
    trained = source.events("kind = 'trained'", "event_id, experiment, unit, variant_digest")
    return f"SELECT DISTINCT unit FROM {trained} WHERE variant_digest IN ({digests})"


def _suspicious(source: Source) -> str:
    """Whether an event of the unit in this experiment is flagged; asked only where such events count."""
    found = source.rows("experiment = {experiment:String} AND unit != ''", "r.unit AS unit, r.flagged AS flagged")
    return f"toUInt8(u.unit IN (SELECT unit FROM {found} WHERE flagged > 0))" if source.flagged else "toUInt8(0)"


def _expression(pattern: str) -> str:
    """A shell pattern as a regular expression that RE2 reads."""
    parts = re.split(r"(\*|\?|\[!?[^\]]+\])", pattern)
    known = {"*": ".*", "?": "."}
    return "".join(
        part
        if not part
        else known.get(part)
        or (
            f"[{part[1:-1].replace('!', '^', 1) if part[1] == '!' else part[1:-1]}]"
            if part[0] == "[" and len(part) > 2
            else re.escape(part)
        )
        for part in parts
    )
