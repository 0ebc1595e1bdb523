"""From the votes of a duel to its board: pure, from sufficient statistics."""

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from scipy.sparse import csr_array

from analytics.experiment import Experiment
from analytics.facts_of_designs import DuelFacts, Meeting, SideVotes
from analytics.inference.bradley_terry import bradley_terry
from analytics.inference.connected import circles, groups, ties_told, why_apart
from analytics.inference.contrast import Interval
from analytics.inference.davidson import davidson
from analytics.inference.multiplicity import Adjusted, holm
from analytics.inference.paired_votes import Fit, PairedVotes
from analytics.inference.ranks import ranks
from analytics.inference.tails import two_sided_critical, two_sided_p
from analytics.report.board import BoardReport, Circle, Encounter, Side, Standing

# An error that clusters by rater is itself estimated from so many; from fewer it is too often far too small.
FEWEST_RATERS = 20
ELO_PER_LOGIT = 400 / math.log(10)
ELO_MEAN = 1000.0
Beaten = tuple[int, int]


def board(experiment: Experiment, duels: DuelFacts | None) -> BoardReport | None:
    """None where nobody voted. Arms of weight 0 keep their place: votes on them stay true."""
    if duels is None or not duels.votes:
        return None
    names = sorted(experiment.arms)
    number = {name: place for place, name in enumerate(names)}
    won, tied = votes_of(duels, names).won_and_tied()
    rated = _rated(groups(len(names), won, tied), duels.meetings, number)
    fit = None
    if rated:
        votes = votes_of(duels, [names[place] for place in rated])
        fit = davidson(votes) if ties_told(rated, won, tied) else bradley_terry(votes)
    alone = _alone(duels)
    corrected = holm([p for _, p in alone if p is not None], experiment.alpha)
    left = iter(corrected)
    adjusted = [next(left) if p is not None else None for _, p in alone]
    contradictions = _circles(duels, adjusted, names, experiment.alpha)
    standings = _standings(names, rated, fit, duels, experiment.alpha)
    apart = {name: why_apart(number[name], rated, won, tied, dict(enumerate(names))) for name in names if number[name] not in rated}
    expected = _expected(fit, [names[place] for place in rated])
    return BoardReport(
        model=_model(fit, bool(tied)),
        level=1 - experiment.alpha,
        votes=duels.votes,
        raters=duels.raters,
        tie_chance=None if fit is None or fit.tie_log is None else 1 / (1 + 2 * math.exp(-fit.tie_log)),
        one_order_p_value=fit.one_order_p(duels.raters) if fit else None,
        standings=[*standings, *(_plain(name, duels, why) for name, why in apart.items())],
        encounters=[
            Encounter(
                first=m.first,
                second=m.second,
                won=m.won,
                lost=m.lost,
                tied=m.tied,
                raters=m.raters,
                score=_score(m),
                ci=_bounded(_score(m), se, m.raters, experiment.alpha),
                expected=expected.get((m.first, m.second)),
                p_value=p,
                adjusted_p_value=a.p_value if a else None,
            )
            for m, (se, p), a in zip(duels.meetings, alone, adjusted, strict=True)
        ],
        circles=contradictions,
        side=_side(duels.sides, experiment.alpha),
        warnings=[_warning(circle) for circle in contradictions],
    )


def votes_of(duels: DuelFacts, arms: Sequence[str]) -> PairedVotes:
    """The votes between two of `arms`, numbered in that order, which has to be the alphabet's."""
    number = {name: place for place, name in enumerate(arms)}
    kept = [place for place, m in enumerate(duels.meetings) if m.first in number and m.second in number]
    at = np.full(len(duels.meetings), -1)
    at[kept] = np.arange(len(kept))
    a, b, product = np.array(duels.products, dtype=np.int64).reshape(-1, 3).T
    inside = (at[a // 3] >= 0) & (at[b // 3] >= 0)
    i, j, value = (3 * at[a // 3] + a % 3)[inside], (3 * at[b // 3] + b % 3)[inside], product[inside].astype(np.float64)
    mirrored = i != j
    rows, columns = np.concatenate([i, j[mirrored]]), np.concatenate([j, i[mirrored]])
    values = np.concatenate([value, value[mirrored]])
    met = [duels.meetings[place] for place in kept]
    return PairedVotes(
        len(arms),
        np.array([[number[m.first], number[m.second]] for m in met]),
        np.array([[m.won, m.lost, m.tied] for m in met], dtype=np.float64),
        csr_array((values, (rows, columns)), shape=(3 * len(met), 3 * len(met))),
    )


def _rated(found: Sequence[Sequence[int]], meetings: Sequence[Meeting], number: Mapping[str, int]) -> list[int]:
    """The group with the most votes inside, strengths of different groups being on no common scale; empty where no group has two."""
    votes = [sum(m.votes for m in meetings if number[m.first] in group and number[m.second] in group) for group in found]
    best = found[max(range(len(found)), key=lambda place: (votes[place], -place))]
    return list(best) if len(best) > 1 else []


def _standings(names: Sequence[str], rated: Sequence[int], fit: Fit | None, duels: DuelFacts, alpha: float) -> list[Standing]:
    if fit is None:
        return []
    covariance = fit.covariance()
    raters = [duels.raters_of.get(names[place], 0) for place in rated]
    degrees = [float(count - 1) if count >= FEWEST_RATERS else None for count in raters]
    placed = ranks(fit.strengths.tolist(), covariance, degrees, alpha)
    found = []
    for place, (arm, rank, degree) in enumerate(zip(rated, placed, degrees, strict=True)):
        strength = float(fit.strengths[place])
        elo = ELO_MEAN + ELO_PER_LOGIT * strength
        se: float | None = None
        ci: Interval = (None, None)
        why = f"{raters[place]} raters voted on it; an interval takes {FEWEST_RATERS}" if degree is None else ""
        if degree is not None:
            se = math.sqrt(max(float(covariance[place, place]), 0.0))
            half = two_sided_critical(alpha, degree) * se * ELO_PER_LOGIT
            ci = (elo - half, elo + half)
        known = {"strength": strength, "se": se, "elo": elo, "elo_ci": ci, "rank": rank.rank, "ranks": (rank.low, rank.high)}
        found.append(msgspec.structs.replace(_plain(names[arm], duels, why), **known))
    return sorted(found, key=lambda standing: (standing.rank or 0, standing.arm))


def _plain(arm: str, duels: DuelFacts, why: str) -> Standing:
    """An arm with its votes and no number."""
    first = [m for m in duels.meetings if m.first == arm]
    second = [m for m in duels.meetings if m.second == arm]
    return Standing(
        arm=arm,
        won=sum(m.won for m in first) + sum(m.lost for m in second),
        lost=sum(m.lost for m in first) + sum(m.won for m in second),
        tied=sum(m.tied for m in (*first, *second)),
        raters=duels.raters_of.get(arm, 0),
        why=why,
    )


def _model(fit: Fit | None, ties: bool) -> str:
    if fit is None:
        return ""
    if fit.tie_log is not None:
        return "Davidson"
    return "Bradley-Terry, a tie as half a win" if ties else "Bradley-Terry"


def _expected(fit: Fit | None, names: Sequence[str]) -> dict[tuple[str, str], float]:
    """What the board gives the first of each pair among the rated."""
    if fit is None:
        return {}
    return {(names[i], names[j]): float(chance) for (i, j), chance in zip(fit.votes.pairs, fit.expected, strict=True)}


def _score(meeting: Meeting) -> float:
    return (meeting.won + meeting.tied / 2) / meeting.votes


def _alone(duels: DuelFacts) -> list[tuple[float, float | None]]:
    """Of each pair by itself, raters as clusters: the error of its score, and the p-value of "alike", whose error is taken at 1/2."""
    own: list[list[tuple[int, int, int]]] = [[] for _ in duels.meetings]
    for a, b, product in duels.products:
        if a // 3 == b // 3:
            own[a // 3].append((a % 3, b % 3, product))
    return [_of_pair(meeting, products) for meeting, products in zip(duels.meetings, own, strict=True)]


def _of_pair(meeting: Meeting, products: Sequence[tuple[int, int, int]]) -> tuple[float, float | None]:
    def spread(centre: float) -> float:
        said = (1 - centre, -centre, 0.5 - centre)
        return math.fsum((1 if a == b else 2) * said[a] * said[b] * product for a, b, product in products)

    score = _score(meeting)
    error, at_half = math.sqrt(max(spread(score), 0.0)) / meeting.votes, spread(0.5)
    if meeting.raters < 2:
        return error, None
    statistic = (score - 0.5) * meeting.votes / math.sqrt(at_half) if at_half > 0 else 0.0
    return error, two_sided_p(statistic, meeting.raters - 1)


def _bounded(value: float, se: float, raters: int, alpha: float) -> Interval:
    """Of a share; none from few raters, or where nobody differs."""
    if raters < FEWEST_RATERS or not se > 0:
        return (None, None)
    half = two_sided_critical(alpha, raters - 1) * se
    return (max(0.0, value - half), min(1.0, value + half))


def _circles(duels: DuelFacts, adjusted: Sequence[Adjusted | None], names: Sequence[str], alpha: float) -> list[Circle]:
    """Those of which every step is shown, over all pairs together."""
    number = {name: place for place, name in enumerate(names)}
    steps: dict[Beaten, tuple[float, float]] = {}
    for m, found in zip(duels.meetings, adjusted, strict=True):
        score, i, j = _score(m), number[m.first], number[m.second]
        if found is not None and found.p_value <= alpha and score != 0.5:
            steps[(i, j) if score > 0.5 else (j, i)] = (max(score, 1 - score), found.p_value)
    shown = circles(len(names), {pair: -p for pair, (_, p) in steps.items()})
    return [
        Circle(
            arms=[names[arm] for arm in circle],
            scores=[steps[pair][0] for pair in zip(circle, (*circle[1:], circle[0]), strict=True)],
            adjusted_p_values=[steps[pair][1] for pair in zip(circle, (*circle[1:], circle[0]), strict=True)],
        )
        for circle in shown
    ]


def _warning(circle: Circle) -> str:
    steps = ", ".join(f"{arm} beats {other}" for arm, other in zip(circle.arms, [*circle.arms[1:], circle.arms[0]], strict=True))
    return f"The duels contradict each other: {steps}. Which arm is best depends on what it stands beside."


def _side(votes: SideVotes, alpha: float) -> Side | None:
    """Do people choose the left picture more often, whatever it shows? A ratio over raters as clusters; the test's error is at 1/2."""
    if not votes.decided:
        return None
    share = votes.left / votes.decided

    def spread(centre: float) -> float:
        return max(votes.left_squares - 2 * centre * votes.left_decided + centre**2 * votes.decided_squares, 0.0)

    error, at_half, p = math.sqrt(spread(share)) / votes.decided, spread(0.5), None
    if votes.raters > 1 and at_half > 0:
        p = two_sided_p((share - 0.5) * votes.decided / math.sqrt(at_half), votes.raters - 1)
    return Side(decided=votes.decided, left=share, ci=_bounded(share, error, votes.raters, alpha), p_value=p)
