"""`salon demo` as a newcomer sees it, with its seconds per stage and the truth beside the finding.

python benchmarks/demo.py [--seed 1]
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from machine import machine


def main() -> int:
    print(machine("salon", "torch", "diffusers", "peft", "onnxruntime", "chdb", "litestar"), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        demo = [sys.executable, "-u", "-m", "salon.cli", "demo", "--dir", str(Path(folder) / "demo"), *(sys.argv[1:] or ["--seed", "1"])]
        return subprocess.run(demo, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
