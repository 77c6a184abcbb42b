"""What the compiler makes of a model, and what the workers do with it: passes, bytes, a timeline for Perfetto.

python examples/03_plan_and_time.py
"""

import sys
import tempfile
from pathlib import Path

from eventide.cli import main

trace = Path(tempfile.mkdtemp()) / "trace.json"
for arguments in (
    ["compile", "eventide-tiny"],
    ["compile", "eventide-tiny", "--target", "h200"],
    ["explain", "eventide-tiny", "--context", "100"],
    ["profile", "eventide-tiny", "--output", str(trace)],
):
    print("$ eventide", *arguments, flush=True)
    if code := main(arguments):
        sys.exit(code)
    print()
