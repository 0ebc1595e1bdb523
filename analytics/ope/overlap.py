"""May the estimates be believed? Does the log show what the policy wants, often enough, with propensities that add up?"""

import msgspec
import numpy as np

from analytics.ope.survey import Survey
from analytics.ope.target import Target

ENOUGH_EFFECTIVE = 200.0
# A pick that was never shown may be rare in the log by chance, if its action is shown elsewhere: as long as that is likelier than this,
CHANCE = 0.001
# and as long as all such picks together are no more of the policy than this.
MOST_UNSEEN = 0.05
STANDARD_ERRORS = 3.0
# Propensities are logged with a few digits.
SLACK = 1e-3


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """What the policy wants and the log never shows. `at`: position and contexts on which the policy depends; empty: nowhere."""

    action: str
    at: dict[str, str]
    probability: float


class Overlap(msgspec.Struct, frozen=True, kw_only=True):
    """`missing`: actions that the policy wants and the log never shows, there where it wants them (`cells`): there is no estimate.
    `unseen`: the share of the policy's picks that the log does not show, though it may be by chance."""

    ok: bool
    reason: str
    missing: list[str]
    cells: list[Cell]
    unseen: float


def overlap(target: Target, seen: Survey) -> Overlap:
    """In this order: is all shown; do the propensities add up (mean weight 1); are there effective rows enough."""
    never, chance = _never_shown(target, seen)
    cells = [_cell(target, stratum, action) for stratum, action in np.argwhere(never)]
    unseen = float((target.probability * chance).sum(axis=1) @ seen.rows) / seen.n
    if not cells and unseen > MOST_UNSEEN:
        cells = [_cell(target, stratum, action) for stratum, action in np.argwhere(chance)]
    missing = list(dict.fromkeys(cell.action for cell in cells))
    if missing:
        return Overlap(ok=False, reason=_no_overlap(target, cells, missing), missing=missing, cells=cells, unseen=unseen)
    off = abs(seen.weight - 1)
    told = f"mean weight {seen.weight:.3f} ± {seen.weight_se:.3f}"
    if off > max(STANDARD_ERRORS * seen.weight_se, SLACK):
        reason = (
            f"the propensities do not add up: {told}, and it should be 1. Were they logged by the draw itself, "
            "given what the policy depends on, and does the log hold every draw?"
        )
        return Overlap(ok=False, reason=reason, missing=[], cells=[], unseen=unseen)
    effective = f"{seen.effective:,.0f} effective {target.log.rows} of {seen.n:,}"
    if seen.effective < ENOUGH_EFFECTIVE:
        reason = (
            f"too few: {effective}, below {ENOUGH_EFFECTIVE:.0f}; the policy differs too much from the one that logged. "
            "Log more, or ask about a policy that is nearer"
        )
        return Overlap(ok=False, reason=reason, missing=[], cells=[], unseen=unseen)
    return Overlap(ok=True, reason=f"the log shows what the policy wants: {effective}; {told}", missing=[], cells=[], unseen=unseen)


def _never_shown(target: Target, seen: Survey) -> tuple[np.ndarray, np.ndarray]:
    """[strata, actions]: wanted and never shown; and of these, shown elsewhere so rarely that it may be chance."""
    wanted = (target.probability > 0) & (seen.rows[:, None] > 0) & (seen.shown == 0)
    by_action, reward_rows = seen.shown.sum(axis=0), seen.shown.sum(axis=1)
    elsewhere = np.maximum(seen.with_reward - reward_rows, 1.0)[:, None]
    share = np.minimum(by_action[None, :] / elsewhere, 1 - 1e-12)
    likely = (by_action[None, :] > 0) & (reward_rows[:, None] * np.log1p(-share) > np.log(CHANCE))
    # A position of which the log has nothing: no chance there.
    at = target.policy.columns.index(target.log.position) if target.log.position in target.policy.columns else None
    if at is not None:
        known = {stratum[at] for stratum, rows in zip(target.policy.strata, seen.rows, strict=True) if rows > 0}
        strange = np.array([stratum[at] not in known for stratum in target.policy.strata])
        wanted |= strange[:, None] & (target.probability > 0)
        likely &= ~strange[:, None]
    return wanted & ~likely, wanted & likely


def _cell(target: Target, stratum: int, action: int) -> Cell:
    at = dict(zip(target.policy.columns, target.policy.strata[stratum], strict=True))
    return Cell(action=target.actions[action], at=at, probability=float(target.probability[stratum, action]))


def _no_overlap(target: Target, cells: list[Cell], missing: list[str]) -> str:
    shown = ", ".join(repr(name) for name in missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    anywhere = {cell.action for cell in cells} & set(target.log.actions)
    where = f" (at {', '.join(f'{k} {v!r}' for k, v in cells[0].at.items())} for one)" if anywhere and cells[0].at else ""
    return (
        f"no overlap: the policy wants {target.log.action} {shown}{where}, and the log never shows it there; nothing in it tells what "
        "that would have earned. Show it to a small share, with its propensity logged, and ask again; or give a model's prediction "
        "of the policy's reward for every row with --prediction, which is corrected by the rows where it was shown"
    )
