"""Every check as one sentence."""

from collections.abc import Iterable, Sequence

from analytics.checks import Fading, Failures, LeftOut, Position, PrePeriod
from analytics.report.schema import MetricReport, Report
from analytics.report.words import p_value, percent, plural, signed


def check_lines(report: Report) -> Iterable[tuple[str, bool, str]]:
    """(name, ok, sentence) of every check."""
    checks = report.checks
    srm, exposure = checks.srm, checks.exposure
    noun = "blocks" if report.switchback else "units"
    counts = " / ".join(f"{n:,}" for n in srm.units.values())
    expected = " / ".join(f"{n:,.0f}" for n in srm.expected.values())
    chi_square = f"chi-square p = {_tail(srm.p_value, srm.log10_p_value)}"
    yield "sample ratio", srm.ok, f"{counts} {noun}, {expected} expected; e-value {srm.e_value:.2g} (alarm at 1000), {chi_square}"
    several = f"{plural(exposure.multiple_exposure, 'unit')} in several arms"
    yield "exposure", exposure.ok, _told(exposure.problems, several)
    if checks.propensities.balance:
        fewest = min(checks.propensities.effective_units.values(), default=0.0)
        yield (
            "propensities",
            checks.propensities.ok,
            _told(checks.propensities.problems, f"as drawn; worth {fewest:,.0f} units or more an arm"),
        )
    holes = checks.holes
    found = f"{plural(holes.exposed_without_generation.total, 'exposed unit')} without a generation, "
    found += f"{plural(holes.generations_without_exposure, 'generation')} without an exposure"
    yield "holes", holes.ok, _told(holes.problems, found)
    if checks.left_out.total:
        yield "left out", checks.left_out.ok, _told(checks.left_out.problems, _left_out(checks.left_out))
    if checks.pre_period.p_values:
        yield "before", checks.pre_period.ok, _told(checks.pre_period.problems, _before(checks.pre_period))
    yield from _latency(report)
    failed = checks.failures
    if failed.shares:
        yield "failures", failed.ok, _told(failed.problems, _failed(failed))
    if checks.novelty.arms:
        faded = ", ".join(f"{arm} {_faded(fading)}" for arm, fading in checks.novelty.arms.items())
        yield "novelty", checks.novelty.ok, _told(checks.novelty.problems, faded)
    if checks.position is not None:
        yield "position", checks.position.ok, _told(checks.position.problems, _placed(checks.position))
    yield from _flagged(report)


def _told(problems: Sequence[str], otherwise: str) -> str:
    return "; ".join(problems) or otherwise


def _tail(p: float | None, log10: float | None) -> str:
    """Beyond what a double holds by its logarithm."""
    return f"1e{log10:.0f}" if log10 is not None and log10 < -300 else p_value(p)


def _left_out(left: LeftOut) -> str:
    rules = [f"{rule} {loss.total:,}" for rule, loss in left.excluded.items() if loss.total]
    rules += [f"trained an arm {left.training.total:,}"] if left.training else []
    return f"{plural(left.total, 'unit')} ({', '.join(rules)}), from every arm alike"


def _before(past: PrePeriod) -> str:
    lowest = min(past.p_values.values())
    return f"in the {past.days:g} days before exposure the arms did alike (p = {p_value(lowest)})"


def _faded(fading: Fading) -> str:
    return f"{signed(fading.first_day_lift)} on the first day, {signed(fading.later_lift)} later (p = {p_value(fading.p_value)})"


def _failed(failed: Failures) -> str:
    """Shares by arm; p only where something failed."""
    shares = ", ".join(f"{arm} {percent(share)}" for arm, share in failed.shares.items())
    lowest = min(failed.p_values.values(), default=1.0)
    return f"{shares} of requests{f' (p = {p_value(lowest)})' if any(failed.shares.values()) else ''}"


def _placed(position: Position) -> str:
    """What is known of it."""
    told = (
        ("cells looked at as before", position.drift),
        ("arms even over cells", position.balance),
        ("pictures shuffled", position.order),
    )
    return ", ".join(f"{words} (p = {p_value(p)})" for words, p in told if p is not None) or "too little yet to tell"


def _latency(report: Report) -> Iterable[tuple[str, bool, str]]:
    gap = report.checks.latency_gap
    if gap.ms is None:
        yield "latency gap", True, "not measured"
    else:
        low, high = gap.ci
        bounds = "" if low is None or high is None else f", between {low:+,.0f} and {high:+,.0f} ms"
        yield "latency gap", gap.ok, f"{gap.arm} {gap.ms:+,.0f} ms against the control{bounds}"


def _flagged(report: Report) -> Iterable[tuple[str, bool, str]]:
    flagged, bots = report.checks.flagged, report.checks.bots
    which = ", ".join(f"{flag.replace('_', ' ')} {count:,}" for flag, count in flagged.by_flag.items())
    fate = "counted" if bots.counted else "left out"
    text = f"{plural(bots.flagged_events, 'flagged event')} {fate}{f' ({which})' if which else ''}, {plural(bots.units, 'bot unit')}"
    yield "bots", bots.flagged_share <= 0.05, text
    if flagged.primary_with is not None and flagged.srm_with is not None:
        told = f"the sample ratio and {flagged.primary_with.metric} tell the same" if flagged.ok else "the report would say something else"
        also = "" if flagged.ok else "; see the risks at the top"
        yield "with flagged", flagged.ok, f"{told} with them ({_lifts(flagged.primary_with)}){also}"


def _lifts(metric: MetricReport) -> str:
    return ", ".join(f"{c.arm} {signed(c.relative.value)}" for c in metric.comparisons)
