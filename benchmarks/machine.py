"""What a figure was measured on: UTC date, processor, cores, load, versions."""

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path


def cpu_name() -> str:
    """The processor's name as its maker writes it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def machine(*packages: str) -> str:
    """Two lines to print above the figures, with the versions of `packages`."""
    now, cores = datetime.datetime.now(datetime.UTC), len(os.sched_getaffinity(0))
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    here = f"{now:%Y-%m-%d %H:%M} UTC · {cpu_name()} · {cores} cores · load {os.getloadavg()[0]:.1f} before the start"
    return f"{here}\n{' · '.join([f'{platform.system()} {platform.release()}', f'Python {platform.python_version()}', *versions])}"
