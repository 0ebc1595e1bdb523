"""What a bandit's report says beside the comparisons."""

import msgspec


class AdaptiveReport(msgspec.Struct, frozen=True, kw_only=True):
    """To be filled."""


def adaptive_lines(report: AdaptiveReport | None) -> list[str]:
    """For the terminal; nothing without it."""
    return []


def adaptive_section(report: AdaptiveReport | None) -> str:
    """For the page; empty without it."""
    return ""
