"""Group-sequential bounds for those who plan their looks: Lan & DeMets (1983) spending with the power family alpha t^phi.

A z statistic at information fraction t is B(t)/sqrt(t) with B a Brownian motion: B's density on the continuation region is
carried from look to look by quadrature (Armitage, McPherson & Rowe 1969), and each bound is solved for the share of alpha
that its look may spend. Two-sided and symmetric: alpha/2 a side.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, ndtri

from analytics.inference.roots import falling_root

# Looks closer than this (in information) would need ever finer quadrature and could hardly spend anything.
CLOSEST = 1e-4
FURTHEST_Z = 40.0
NODES, WEIGHTS = np.polynomial.legendre.leggauss(8)
Array = np.ndarray[tuple[int], np.dtype[np.float64]]


def bounds(fractions: Sequence[float], alpha: float, phi: float = 2.0) -> list[float]:
    """Critical values of |z| at looks made at these information fractions (rising, above 0); cumulative spend is
    alpha min(1, t)^phi, so a last look beyond 1 (more units than planned) spends what is left.

    Raises ValueError for fractions that do not rise by at least 1e-4, or an alpha or phi that cannot be.
    """
    if not (0 < alpha < 1 and phi > 0):
        raise ValueError(f"alpha = {alpha}, phi = {phi}: give 0 < alpha < 1 and phi > 0")
    for index, (t, before) in enumerate(zip(fractions, (0.0, *fractions), strict=False)):
        if not t - before >= CLOSEST:
            raise ValueError(f"fractions[{index}] = {t} does not lie at least {CLOSEST} above {before}: give fractions that rise from 0")
    return _critical_values(fractions, [alpha * min(1.0, t) ** phi for t in fractions])


def reached(units: int, planned_units: float, looks: int, alpha: float, phi: float = 2.0) -> tuple[int, float, float | None]:
    """The planned look that `units` (both arms) have reached, the information there is (units/planned), and the critical |z| now.

    Looks are planned at equal steps up to `planned_units`; look 0 is before the first and has no critical value. The earlier
    looks are taken as made where they were planned, the current one where it is, and it spends what was planned for it: so
    the bound holds for whoever reads once at each look, also late or beyond the planned units. It is not for reading again
    and again between looks (every hour: about 7 % false alarms at 5 %).
    """
    information = units / planned_units
    look = min(looks, math.floor(units * looks / planned_units))
    if look < 1:
        return (0, information, None)
    planned = [j / looks for j in range(1, look + 1)]
    return (look, information, _critical_values([*planned[:-1], max(planned[-1], information)], [alpha * t**phi for t in planned])[-1])


def _critical_values(times: Sequence[float], spends: Sequence[float]) -> list[float]:
    """Critical |z| at rising information times, by which `spends` (cumulative) of alpha are to be spent."""
    found: list[float] = []
    points, mass = np.zeros(1), np.ones(1)
    before, spent = 0.0, 0.0
    for index, (t, spend) in enumerate(zip(times, spends, strict=True)):
        critical = _solve(points, mass, t, before, spend - spent)
        found.append(critical)
        if index + 1 < len(times):
            points, mass = _carry(points, mass, t, before, critical, times[index + 1] - t)
        before, spent = t, spend
    return found


def _solve(points: Array, mass: Array, t: float, before: float, spend: float) -> float:
    """The critical z at which look `t` is crossed with probability `spend`, from B's `mass` at `points` at time `before`."""
    if spend <= 0:
        return math.inf
    if before == 0:
        return -float(ndtri(spend / 2))
    step, root = math.sqrt(t - before), math.sqrt(t)
    # B is symmetric: what is crossed above is half of it. Nobody crosses more often than one who did not look before.
    furthest = min(-float(ndtri(spend / 2)), FURTHEST_Z)

    def excess(z: float) -> float:
        crossed = float(mass @ ndtr((points - z * root) / step))
        # In logarithms, as tails fall too steeply for false position.
        return math.log(crossed / (spend / 2)) if crossed > 0 else -math.inf

    return falling_root(excess, 0.0, furthest)


def _carry(points: Array, mass: Array, t: float, before: float, critical: float, next_step: float) -> tuple[Array, Array]:
    """B's mass at quadrature points of the continuation region at time `t`: composite Gauss-Legendre, in panels no wider than
    twice the standard deviation of the smaller neighbouring step, over which 8 nodes are exact to about 1e-12."""
    step = math.sqrt(t - before)
    reach = min(critical, FURTHEST_Z) * math.sqrt(t)
    panels = math.ceil(reach / min(step, math.sqrt(next_step)))
    edges = np.linspace(-reach, reach, panels + 1)
    half = np.diff(edges)[:, None] / 2
    there = (edges[:-1, None] + half * (NODES + 1)).ravel()
    density = np.exp(-0.5 * ((there[:, None] - points) / step) ** 2) @ mass / (step * math.sqrt(2 * math.pi))
    return there, (half * WEIGHTS).ravel() * density
