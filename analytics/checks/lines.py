"""Every check of the facts as one line: its name, whether it passes, what it found."""

from collections.abc import Iterator

from analytics.checks.all_checks import Checks


def further_lines(checks: Checks) -> Iterator[tuple[str, bool, str]]:
    """(name, ok, sentence) of the checks that have something to say: propensities, holes, left out, past and novelty."""
    drawn, holes, left, past, fading = checks.propensities, checks.holes, checks.left_out, checks.pre_period, checks.novelty
    if drawn.balance:
        balance = ", ".join(f"{arm} {value:.3f} ± {drawn.se[arm]:.3f}" for arm, value in drawn.balance.items())
        effective = " / ".join(f"{n:,.0f}" for n in drawn.effective_units.values())
        yield "propensities", drawn.ok, f"balance {balance} (1 where they are true); {effective} effective units"
    lost = holes.exposed_without_generation.total
    if lost or holes.generations_without_exposure or not holes.ok:
        counts = f"{lost:,} exposed units without a generation, {holes.generations_without_exposure:,} generations without an exposure"
        yield "holes", holes.ok, "; ".join(holes.problems) or f"{counts}; no arm loses more"
    if left.total:
        parts = [f"{rule} {loss.total:,}" for rule, loss in left.excluded.items() if loss.total]
        parts += [f"a candidate was trained on {left.training.total:,}"] if left.training else []
        yield (
            "left out",
            left.ok,
            "; ".join((", ".join(parts), *left.problems)) if left.problems else f"{', '.join(parts)}; from every arm alike",
        )
    if past.p_values:
        smallest = min(past.p_values.values())
        yield "before", past.ok, "; ".join(past.problems) or f"no difference in the {past.days:g} days before exposure (p = {smallest:.3f})"
    if fading.arms:
        text = ", ".join(f"{arm} {f.first_day_lift:+.1%} on day one, {f.later_lift:+.1%} later" for arm, f in fading.arms.items())
        yield "novelty", fading.ok, "; ".join(fading.problems) or f"{text}; no change told"
