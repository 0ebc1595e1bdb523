"""The answer of `salon power` on a terminal."""

import math

from analytics.power.answer import Answer
from analytics.power.midrun import Ahead, Needed
from analytics.power.plan import Design, Size
from analytics.report.text import table, wrap
from analytics.report.words import count, number, percent

NAMES = {"fixed": "one look", "always_valid": "any look"}


def to_text(answer: Answer) -> str:
    """As text of at most 100 columns, ending in a newline."""
    lines = wrap(_headline(answer), "")
    if answer.designs:
        lines += ["", *_designs(answer)]
    if answer.ahead is not None:
        lines += _ahead(answer, answer.ahead)
    if answer.by_day:
        what = "smallest margin" if answer.margin is not None else "smallest effect"
        lines += ["", f"After so many days the {what} that is found with power {answer.power:.0%}"]
        rows = [[f"{r.day}", f"{r.units:,}", _size(r.fixed, answer), _size(r.always_valid, answer)] for r in answer.by_day]
        lines += table(["day", "units", "one look", "any look"], rows)
    lines += ["", "How to read this"]
    for note in answer.method_notes:
        lines += wrap(note, "  - ", "    ")
    return "\n".join(lines) + "\n"


def _headline(answer: Answer) -> str:
    baseline = number(answer.baseline, answer.kind)
    noise = "" if answer.kind == "proportion" else f", standard deviation {math.sqrt(answer.variance):,.4g} per unit"
    if answer.margin is not None:
        wanted = f"; no worse than {percent(answer.margin)} {'above' if answer.lower_is_better else 'below'} it"
    elif answer.effect is not None:
        after = number(answer.baseline + answer.effect.absolute, answer.kind)
        relative = f" ({answer.effect.relative * 100:+,.3g}%)" if answer.effect.relative is not None else ""
        wanted = f"; from {baseline} to {after}{relative}"
    else:
        wanted = ""
    name = f"{answer.metric} ({answer.kind})" if answer.metric else f"a {answer.kind}"
    return f"{name}: {baseline}{noise}{wanted}"


def _designs(answer: Answer) -> list[str]:
    equal = all(abs(arm.share - answer.arms[0].share) < 1e-9 for arm in answer.arms)
    control = next(arm for arm in answer.arms if arm.control)
    smallest = min((arm for arm in answer.arms if not arm.control), key=lambda arm: arm.share)
    arms = [control.arm] if equal else [control.arm, smallest.arm]
    # Names as long as they may be would push the numbers off the page.
    heads = ["per arm"] if equal else [name if len(name) <= 14 else name[:13] + "…" for name in arms]
    columns = ["read at", "planned_units", *heads, "units", "days", "power", _smallest_name(answer), "stops around"]
    rows = []
    for design in answer.designs:
        per_arm = [design.units_per_arm.get(arm) for arm in arms]
        rows.append(
            [
                _name(design),
                "" if design.planned_units is None else count(design.planned_units),
                *(count(units) if units is not None else "–" for units in per_arm),
                "not within reach" if design.units is None else count(design.units),
                _days(design) if answer.arrivals is not None else "",
                "" if design.power is None else f"{design.power:.1%}",
                _size(design.mde, answer),
                "" if design.expected_units is None else count(design.expected_units),
            ]
        )
    if all(not row[-4] for row in rows):
        columns[-4] = ""
    if all(not row[-3] for row in rows):
        columns[-3] = ""
    if all(not row[-1] for row in rows):
        columns[-1] = ""
    return table(columns, rows)


def _smallest_name(answer: Answer) -> str:
    return "margin" if answer.margin is not None else "effect found"


def _name(design: Design) -> str:
    return f"{design.looks} looks" if design.design == "group_sequential" else NAMES[design.design]


def _days(design: Design) -> str:
    if design.units is None:
        return ""
    return "never" if design.days is None else f"{math.ceil(design.days):,}" + ("*" if design.extrapolated else "")


def _size(size: Size | None, answer: Answer) -> str:
    if size is None:
        return "none"
    absolute = percent(size.absolute) if answer.kind == "proportion" else f"{size.absolute:,.4g}"
    return absolute if size.relative is None else f"{size.relative * 100:{'' if answer.margin is not None else '+'},.3g}%"


def _ahead(answer: Answer, ahead: Ahead) -> list[str]:
    so_far = f" in {ahead.days:,.1f} days" if ahead.days is not None else ""
    lines = ["", f"So far {ahead.units:,} units{so_far}; for arm {ahead.arm!r}:"]
    rows = []
    for name, way in (("one look", ahead.fixed), ("any look", ahead.always_valid)):
        if way is not None:
            rows.append([name, *_needed(way, answer, ahead)])
    if not rows:
        return [*lines, "  nothing can be told yet: no units, or nothing varies"]
    header = ["read at", "found today", "power now", "power at planned_units", "more units", "more days"]
    return lines + table([h if any(row[i] for row in rows) else "" for i, h in enumerate(header)], rows)


def _needed(way: Needed, answer: Answer, ahead: Ahead) -> list[str]:
    mde = Size(absolute=way.mde_now, relative=way.mde_now / abs(answer.baseline) if answer.baseline else None)
    if not ahead.asked:
        return [_size(mde, answer), "", "", "", ""]
    return [
        _size(mde, answer),
        "" if way.power_now is None else f"{way.power_now:.1%}",
        "" if way.at_planned is None else f"{way.at_planned:.1%}",
        "not within reach" if way.extra_units is None else count(way.extra_units),
        "" if way.extra_days is None else f"{math.ceil(way.extra_days):,}",
    ]
