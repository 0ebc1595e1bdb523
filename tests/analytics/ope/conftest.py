"""Puts this folder's `ope_cases` on the path: test modules are imported without packages."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
