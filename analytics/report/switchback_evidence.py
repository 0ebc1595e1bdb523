"""From the blocks of a switchback to what the report says of them: Newey-West, the randomisation test, carry-over, warnings."""

from collections.abc import Mapping, Sequence

from analytics.designs import Switchback, planned_units
from analytics.experiment import Experiment
from analytics.facts import ExperimentFacts
from analytics.facts_of_designs import BlockFacts
from analytics.inference.newey_west import newey_west_se
from analytics.inference.randomisation import randomisation_test
from analytics.inference.switchback import carry_over, effect
from analytics.inference.tails import two_sided_critical, two_sided_p
from analytics.report.block_contrast import pair_of
from analytics.report.schema import Comparison, MetricReport
from analytics.report.switchback import BlockEffect, SwitchbackReport
from analytics.report.words import plural

CARRY_OVER_ALPHA = 0.001
# Blocks with two arms come with changes of weights, a few of them; more is a gateway that does not switch with the others.
MOST_MIXED = 0.05


def switchback_report(experiment: Experiment, facts: ExperimentFacts, compared: Sequence[MetricReport]) -> SwitchbackReport | None:
    """None without blocks."""
    blocks, settings = facts.blocks, experiment.switchback or Switchback()
    if blocks is None:
        return None
    # What could not be compared, for it is too small or no number, is nothing to test.
    tested = [(m.metric, c) for m in compared if m.metric in blocks.totals for c in m.comparisons if c.p_value is not None]
    effects = [found for metric, one in tested if (found := _effect(blocks, metric, one, settings.lag)) is not None]
    return SwitchbackReport(
        block_minutes=settings.block_minutes,
        washout_minutes=settings.washout_minutes,
        lag=settings.lag,
        blocks=dict(blocks_of_arms(experiment, facts)),
        planned_blocks=planned_units(experiment),
        running=blocks.running,
        mixed=blocks.mixed,
        unplaced=blocks.unplaced,
        effects=effects,
        warnings=_warnings(blocks, effects),
    )


def blocks_of_arms(experiment: Experiment, facts: ExperimentFacts) -> Mapping[str, int]:
    """How many blocks the primary metric counts, per arm."""
    totals = facts.blocks.totals.get(experiment.primary) if facts.blocks else None
    if facts.blocks is None or totals is None:
        return dict.fromkeys(experiment.arms, 0)
    counted = [arm for arm, size in zip(facts.blocks.arms, totals.denominators, strict=False) if size > 0]
    return {arm: counted.count(arm) for arm in experiment.arms}


def _effect(facts: BlockFacts, metric: str, comparison: Comparison, lag: int) -> BlockEffect | None:
    blocks, shares = pair_of(facts, metric, comparison.arm, comparison.vs)
    found = effect(blocks)
    if found is None:
        return None
    se = newey_west_se(found.scores, blocks.numbers, lag)
    value, half = found.contrast.difference, two_sided_critical(1 - comparison.ci_level) * se
    return BlockEffect(
        metric=metric,
        arm=comparison.arm,
        vs=comparison.vs,
        blocks=found.contrast.units,
        difference=value,
        newey_west_se=se,
        ci=(value - half, value + half) if se > 0 else (None, None),
        ci_level=comparison.ci_level,
        p_value=two_sided_p(value / se) if se > 0 else None,
        randomisation=randomisation_test(blocks, shares),
        foretold=found.variance_reduction,
        carry_over=carry_over(blocks),
    )


def _warnings(blocks: BlockFacts, effects: Sequence[BlockEffect]) -> list[str]:
    said = [
        f"Blocks after a switch differ from the others on {one.metric}: {one.arm!r} makes {one.carry_over.after_other:+.4g} in blocks "
        f"after one of the other arm, {one.carry_over.after_same:+.4g} after one of the same (p = {one.carry_over.p_value:.1e}). An arm "
        "acts on in the next block: take a longer wash-out, or longer blocks."
        for one in effects
        if one.carry_over is not None and one.carry_over.p_value < CARRY_OVER_ALPHA
    ]
    if blocks.mixed > max(1.0, MOST_MIXED * (len(blocks.numbers) + blocks.mixed)):
        said.append(
            f"{plural(blocks.mixed, 'block')} had two arms and are left out: weights changed often, or gateways switch at different times."
        )
    if blocks.unplaced:
        said.append(f"{plural(blocks.unplaced, 'generation')} came without a block and are left out.")
    return said
