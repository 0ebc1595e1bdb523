"""A metric as numbers per unit: SQL over the unit's arrays of event times and values."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from analytics.events import GATEWAY_KINDS
from analytics.experiment import Filter, Metric
from analytics.warehouse.source import Parameters

MICROSECONDS_PER_HOUR = 3_600_000_000
MICROSECONDS_PER_DAY = 24 * MICROSECONDS_PER_HOUR
# A unit's total beyond this counts as this: a double still holds the squares of a hundred million such units.
LARGEST = "1e150"
Window = Callable[[str], str]
Part = Literal["own", "before"]


class Stream(NamedTuple):
    """Events of one kind of a unit: in the experiment (`own`), or also elsewhere, for what was before it. `where` and `field` (the
    column of an id) need the events themselves."""

    part: Part
    kind: str
    where: tuple[tuple[str, tuple[str, ...]], ...] = ()
    field: str = ""

    @property
    def raw(self) -> bool:
        """Whether the daily rollups lack it."""
        return bool(self.where or self.field)


class Streams:
    """The streams that a set of numbers needs, each under an index; `arrays` of one are columns of the unit `u`."""

    def __init__(self) -> None:
        self.found: list[Stream] = []
        self.letters: set[tuple[str, int]] = set()

    def index(self, stream: Stream) -> int:
        """Its place, new or known."""
        if stream not in self.found:
            self.found.append(stream)
        return self.found.index(stream)

    def array(self, letter: str, streams: list[Stream]) -> str:
        """t: times in microseconds, v: values, a: arms, i: ids; of all `streams` together."""
        self.letters |= {(letter, self.index(stream)) for stream in streams}
        names = [f"u.{letter}{self.index(stream)}" for stream in streams]
        return names[0] if len(names) == 1 else f"arrayConcat({', '.join(names)})"


def since_exposure(window_hours: float | None) -> Window:
    """Events from the unit's exposure on, for `window_hours`. What the gateway itself logs counts from the start."""

    def window(kind: str) -> str:
        parts = [] if kind in GATEWAY_KINDS else ["t >= u.exposed_at"]
        if window_hours is not None:
            parts.append(f"t <= u.exposed_at + {round(window_hours * MICROSECONDS_PER_HOUR)}")
        return _and(parts, kind)

    return window


def before_exposure(days: float) -> Window:
    """Events of so many days before the unit's exposure."""
    return lambda kind: f"t >= u.exposed_at - {round(days * MICROSECONDS_PER_DAY)} AND t < u.exposed_at"


def on_day_of_life(kind: str) -> str:
    """Events of the `d`-th 24 hours since the unit's exposure."""
    start = f"u.exposed_at + d * {MICROSECONDS_PER_DAY}"
    return _and([f"t >= {start}", f"t < {start} + {MICROSECONDS_PER_DAY}"], kind)


def _and(parts: list[str], kind: str) -> str:
    return " AND ".join([*parts, "a = u.first_arm"] if kind == "preference" else parts) or "1"


class Numbers:
    """Numerator and denominator of metrics per unit, as SQL; remembers which streams they take."""

    def __init__(self, streams: Streams, parameters: Parameters) -> None:
        self.streams, self._parameters = streams, parameters

    def of(self, metric: Metric, window: Window, part: Part = "own", *, cap: bool = True) -> tuple[str, str | None]:
        """Of a metric that is no quantile; the denominator is None where it is 1."""
        where = _where(metric.where)
        if metric.per in {"generation", "image"}:
            return self._share(metric, window, part)
        if metric.per == "event":
            total = self._sum(metric.event, where, window, part, "if(isFinite(v), v, 0)")
            count: str | None = self._sum(metric.event, where, window, part, "isFinite(v)")
        elif metric.kind == "proportion":
            return f"toFloat64({self._count(metric.event, where, window, part)} > 0)", None
        elif metric.kind == "ratio":
            total = self._count(metric.event, where, window, part)
            count = self._count(metric.denominator or "", _where(metric.denominator_where), window, part)
        else:
            total, count = self._sum(metric.event, where, window, part, "if(isFinite(v), v, 1)"), None
        if cap and isinstance(metric.cap, int | float):
            total = f"least({total}, {float(metric.cap)!r})"
        return total, count

    def values(self, metric: Metric, window: Window) -> str:
        """The values of a quantile metric's events, bounded by a cap in numbers; events without one are left out."""
        streams, kind = self._of("own", metric.event, _where(metric.where)), metric.event
        letters = self._letters(kind)
        names = ", ".join(("v", *letters))
        arrays = ", ".join(self.streams.array(letter, streams) for letter in ("v", *letters))
        found = f"arrayFilter(({names}) -> isFinite(v) AND {window(kind)}, {arrays})"
        return f"arrayMap(v -> least(v, {float(metric.cap)!r}), {found})" if isinstance(metric.cap, int | float) else found

    def _share(self, metric: Metric, window: Window, part: Part) -> tuple[str, str]:
        field, kind = f"{metric.per}_id", metric.per

        def ids(of: str, where: tuple[tuple[str, tuple[str, ...]], ...]) -> str:
            streams, letters = self._of(part, of, where, field), self._letters(of)
            arrays = ", ".join(self.streams.array(letter, streams) for letter in ("i", *letters))
            return f"arrayFilter((i, {', '.join(letters)}) -> {window(of)}, {arrays})"

        whole = ids(kind, ())
        return (
            f"toFloat64(length(arrayIntersect({whole}, {ids(metric.event, _where(metric.where))})))",
            f"toFloat64(length(arrayDistinct({whole})))",
        )

    def _count(self, kind: str, where: tuple[tuple[str, tuple[str, ...]], ...], window: Window, part: Part) -> str:
        streams, letters = self._of(part, kind, where), self._letters(kind)
        arrays = ", ".join(self.streams.array(letter, streams) for letter in letters)
        return f"toFloat64(arrayCount(({', '.join(letters)}) -> {window(kind)}, {arrays}))"

    def _sum(self, kind: str, where: tuple[tuple[str, tuple[str, ...]], ...], window: Window, part: Part, number: str) -> str:
        streams, letters = self._of(part, kind, where), ("v", *self._letters(kind))
        arrays = ", ".join(self.streams.array(letter, streams) for letter in letters)
        total = f"toFloat64(arraySum(({', '.join(letters)}) -> if({window(kind)}, {number}, 0), {arrays}))"
        return f"greatest(-{LARGEST}, least({LARGEST}, {total}))"

    @staticmethod
    def _letters(kind: str) -> tuple[str, ...]:
        return ("t", "a") if kind == "preference" else ("t",)

    @staticmethod
    def _of(part: Part, kind: str, where: tuple[tuple[str, tuple[str, ...]], ...], field: str = "") -> list[Stream]:
        own = Stream("own", kind, where, field)
        if part == "own":
            return [own]
        # What the gateway logs in the experiment counts for it from the start, so it cannot also stand for what was before.
        before = Stream("before", kind, where, field)
        return [before] if kind in GATEWAY_KINDS else [own, before]


def _where(given: Filter) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple(sorted((key, (value,) if isinstance(value, str) else tuple(value)) for key, value in given.items()))
