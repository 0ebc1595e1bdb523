"""What interleaved grids and duels say beside the comparisons."""

import msgspec


class PreferenceReport(msgspec.Struct, frozen=True, kw_only=True):
    """To be filled."""


def preference_lines(report: PreferenceReport | None) -> list[str]:
    """For the terminal; nothing without it."""
    return []


def preference_section(report: PreferenceReport | None) -> str:
    """For the page; empty without it."""
    return ""
