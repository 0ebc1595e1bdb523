"""Is the arm of an experiment still the variant that it was at the start?"""

from pathlib import Path

import msgspec

from serving.variant import Variant

DECIDES_PIXELS = ("model", "adapter", "adapter_scale", "steps", "guidance", "scheduler", "size", "served_as")


def portable(variant: Variant, folder: Path) -> Variant:
    """The variant with paths below `folder` relative to it, so that a restored backup elsewhere is the same variant."""

    def relative(path: str) -> str:
        return str(Path(path).relative_to(folder)) if Path(path).is_relative_to(folder) else path

    adapter = relative(variant.adapter) if variant.adapter else variant.adapter
    return msgspec.structs.replace(variant, model=relative(variant.model), adapter=adapter)


def differs(meant: Variant, now: Variant) -> str:
    """What first tells two variants' pictures apart, in words; empty when nothing does. Where they are drawn does not count."""
    for field in DECIDES_PIXELS:
        if getattr(now, field) != getattr(meant, field):
            return f"its `{field}` cannot change from {getattr(meant, field)!r} to {getattr(now, field)!r}"
    return ""
