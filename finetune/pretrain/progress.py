"""A resumable training state on disk, and a line of progress to read while it runs."""

import sys
import time
from pathlib import Path
from typing import Any

import torch


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that a crash leaves either the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def resume(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The last checkpoint, or None."""
    return torch.load(path, map_location=device, weights_only=True) if path.exists() else None


def say(name: str, step: int, steps: int, started: float, **figures: float) -> None:
    """Print one line: where the training stands."""
    values = " ".join(f"{key}={value:.4f}" for key, value in figures.items())
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {name} {step}/{steps} {time.monotonic() - started:.0f}s {values}\n")
    sys.stdout.flush()
