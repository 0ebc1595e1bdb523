"""Runs `one.py` in a process of its own and reads its line of JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).resolve().parent / "one.py"


def alone(system: str, *words: str, limit_seconds: float = 300.0) -> dict[str, Any]:
    """What it measured. Raises RuntimeError with the last lines of what it said."""
    # torch and ONNX Runtime are told by the systems themselves how many threads to take
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), system, *words], capture_output=True, text=True, timeout=limit_seconds, check=False, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"{system} {' '.join(words)}: " + " | ".join(done.stderr.strip().splitlines()[-3:]))
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
