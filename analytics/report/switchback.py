"""What a switchback's blocks say beside the comparisons."""

import msgspec


class SwitchbackReport(msgspec.Struct, frozen=True, kw_only=True):
    """To be filled."""


def switchback_lines(report: SwitchbackReport | None) -> list[str]:
    """For the terminal; nothing without it."""
    return []


def switchback_section(report: SwitchbackReport | None) -> str:
    """For the page; empty without it."""
    return ""
