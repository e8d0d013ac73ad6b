"""Benchmarks: `python -m benchmarks.NAME` prints a table beside a peer, then one line a figure; exits 1 if a bar is missed.

They use the builders of the tests, so that what is measured is what is tested.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
