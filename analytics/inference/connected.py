"""Which arms of paired votes can be put on one scale at all (Ford 1957, Amer. Math. Monthly 64:28), and which cannot, and why."""

from collections.abc import Collection, Mapping, Sequence

Pair = tuple[int, int]


def groups(arms: int, won: Collection[Pair], tied: Collection[Pair]) -> list[list[int]]:
    """Arms 0 … `arms` - 1 in groups whose strengths have a maximum: in each, any arm leads to any other along pairs (i, j) of
    `won`, i won a vote against j, or `tied`, either way. Largest first, then by their lowest number."""
    ahead = [set[int]() for _ in range(arms)]
    behind = [set[int]() for _ in range(arms)]
    for i, j in [*won, *tied, *((j, i) for i, j in tied)]:
        ahead[i].add(j)
        behind[j].add(i)
    found, left = [], set(range(arms))
    while left:
        start = min(left)
        group = (_reached(start, ahead) & _reached(start, behind)) & left
        found.append(sorted(group))
        left -= group
    return sorted(found, key=lambda group: (-len(group), group[0]))


def ties_told(arms: Sequence[int], won: Collection[Pair], tied: Collection[Pair]) -> bool:
    """Whether Davidson's nu has a maximum beside the strengths of a group: somebody tied, and round some circle of the group votes
    were won more often than tied. Else larger gaps with ever more ties fit ever better."""
    inside = set(arms)
    edges = [(i, j, -1) for i, j in won if i in inside and j in inside]
    if not any(i in inside and j in inside for i, j in tied):
        return False
    edges += [(a, b, 1) for i, j in tied for a, b in ((i, j), (j, i)) if i in inside and j in inside]
    # Bellman-Ford: a shortest path that still shortens after as many rounds as arms goes round such a circle.
    distance = dict.fromkeys(arms, 0)
    for _ in arms:
        changed = False
        for i, j, length in edges:
            if distance[i] + length < distance[j]:
                distance[j], changed = distance[i] + length, True
        if not changed:
            return False
    return True


def why_apart(arm: int, rated: Collection[int], won: Collection[Pair], tied: Collection[Pair], names: Mapping[int, str]) -> str:
    """Why an arm outside the group `rated` has no place on its scale, in words. `rated` empty: no two arms have one."""
    meetings = [(i, j) for i, j in (*won, *tied) if arm in (i, j)]
    if not meetings:
        return "no votes"
    ahead = [set[int]() for _ in names]
    behind = [set[int]() for _ in names]
    for i, j in [*won, *tied, *((j, i) for i, j in tied)]:
        ahead[i].add(j)
        behind[j].add(i)
    together = _reached(arm, ahead) & _reached(arm, behind)
    linked = set(rated) or set(names) - together
    above, below = bool(_reached(arm, ahead) & linked), bool(_reached(arm, behind) & linked)
    others = sorted(together - {arm})
    group = f"with {', '.join(names[other] for other in others)} " if others else ""
    if above and below:
        return f"{group}won every vote that links it to some, and lost every vote that links it to the others"
    if above:
        return f"{group}won every vote that links it to the others: its strength has no upper end"
    if below:
        return f"{group}lost every vote that links it to the others: its strength has no lower end"
    return f"{group}no votes link it to the others"


def circles(arms: int, beats: Mapping[Pair, float], most: int = 5) -> list[list[int]]:
    """Contradictions: shortest circles i beats j beats … beats i among the pairs of `beats` (pair → how sure, any number), each
    beginning with its lowest arm; those of the surest pairs first, at most `most`."""
    ahead = [[j for j in range(arms) if (i, j) in beats] for i in range(arms)]
    found: dict[tuple[int, ...], float] = {}
    for i, j in beats:
        path = _shortest(j, i, ahead)
        if path is not None:
            start = path.index(min(path))
            circle = (*path[start:], *path[:start])
            found[circle] = min(beats[pair] for pair in zip(circle, (*circle[1:], circle[0]), strict=True))
    return [list(circle) for circle in sorted(found, key=lambda circle: (len(circle), -found[circle], circle))][:most]


def _reached(start: int, steps: Sequence[Collection[int]]) -> set[int]:
    seen, open_ = {start}, [start]
    while open_:
        for other in steps[open_.pop()]:
            if other not in seen:
                seen.add(other)
                open_.append(other)
    return seen


def _shortest(start: int, end: int, ahead: Sequence[Sequence[int]]) -> list[int] | None:
    """Arms from `start` to `end` along the fewest steps; None where there is no way."""
    came: dict[int, int] = {start: start}
    line = [start]
    for arm in line:
        if arm == end:
            path = [end]
            while path[-1] != start:
                path.append(came[path[-1]])
            return path[::-1]
        for other in ahead[arm]:
            if other not in came:
                came[other] = arm
                line.append(other)
    return None
