"""The numbers of `salon power` as people write them: `10%`, `5%` of the baseline, `0.5pp`, `base=0.5,vivid=0.5`."""

import math

import msgspec


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """A change: of the control's mean (`relative`, 0.05 = 5 %), or in the metric's own unit."""

    value: float
    relative: bool

    def absolute(self, baseline: float) -> float:
        """In the metric's own unit. Raises ValueError for a relative change of a baseline of 0."""
        if not self.relative:
            return self.value
        if baseline == 0:
            raise ValueError(f"{self.value:+.3g} of a baseline of 0 is no change; give the effect in the metric's own unit, without %")
        return self.value * abs(baseline)


def parse_number(option: str, text: str) -> float:
    """`0.1` or `10%`. Raises ValueError."""
    share = text.strip().endswith("%")
    value = _float(text.strip().removesuffix("%"))
    if not math.isfinite(value):
        raise ValueError(f"{option} {text!r} is no number; write for example 0.1 or 10%")
    return value / 100 if share else value


def parse_share(option: str, text: str) -> float:
    """A number from 0 to 1, or a percentage. Raises ValueError."""
    value = parse_number(option, text)
    if not 0 <= value <= 1:
        raise ValueError(f"{option} {text!r} is no share; write a number from 0 to 1, or a percentage up to 100%")
    return value


def parse_effect(option: str, text: str) -> Effect:
    """`5%` is relative to the baseline; `0.005` is in the metric's unit; `0.5pp` are percentage points. Raises ValueError."""
    plain = text.strip()
    relative, points = plain.endswith("%"), plain.endswith("pp")
    value = _float(plain.removesuffix("%").removesuffix("pp")) / (100 if relative or points else 1)
    if not math.isfinite(value) or value == 0:
        raise ValueError(f"{option} {text!r} is no change; write 5% (of the baseline), 0.005 (in the metric's unit) or 0.5pp")
    return Effect(value=value, relative=relative)


def parse_shares(option: str, text: str) -> dict[str, float]:
    """`base=0.5,vivid=0.5`, or `0.5,0.25,0.25` for control, arm 1, arm 2. Raises ValueError unless they are above 0 and sum to 1."""
    shares: dict[str, float] = {}
    for number, part in enumerate(text.split(",")):
        name, given, share = part.rpartition("=")
        arm = name.strip() if given else "control" if number == 0 else f"arm {number}"
        value = _float(share.removesuffix("%")) / (100 if share.endswith("%") else 1)
        if not arm or not (math.isfinite(value) and 0 < value < 1):
            raise ValueError(f"{option} {text!r}: {part!r} is no share of the units; write for example base=0.5,vivid=0.5")
        if arm in shares:
            raise ValueError(f"{option} {text!r} names {arm!r} twice; give every arm one share")
        shares[arm] = value
    if len(shares) < 2 or abs(math.fsum(shares.values()) - 1) > 1e-9:
        raise ValueError(
            f"{option} {text!r} has {len(shares)} shares that sum to {math.fsum(shares.values()):g}; give 2 or more that sum to 1"
        )
    return shares


def equal_shares(arms: int) -> dict[str, float]:
    """Control, arm 1, … with as many units each. Raises ValueError."""
    if not 2 <= arms <= 50:
        raise ValueError(f"--arms is {arms}; give 2 to 50, the control counted")
    return {"control" if i == 0 else f"arm {i}": 1 / arms for i in range(arms)}


def _float(text: str) -> float:
    try:
        return float(text.strip().replace("_", ""))
    except ValueError:
        return math.nan
