"""How much each place of a grid is looked at, and what clicks are worth then."""

import msgspec


class PositionReport(msgspec.Struct, frozen=True, kw_only=True):
    """To be filled."""


def position_lines(report: PositionReport | None) -> list[str]:
    """For the terminal; nothing without it."""
    return []


def position_section(report: PositionReport | None) -> str:
    """For the page; empty without it."""
    return ""
