"""Measure every solution of this data set on the CPU and write the leaderboard page.

    python examples/bench_dataset/run.py [page.html]
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SETTINGS = ["--iterations", "15", "--warmup-runs", "3", "--set", "budget_s=4"]


def main() -> None:
    page = Path(sys.argv[1] if len(sys.argv) > 1 else "bench_dataset.html").resolve()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        shutil.copytree(HERE, data, ignore=shutil.ignore_patterns("*.py", "*.md", "__pycache__"))
        bench = [sys.executable, "-m", "eventide.cli.bench"]
        subprocess.run([*bench, "run", str(data), "--device", "cpu", *SETTINGS], check=True)
        subprocess.run([*bench, "report", "html", str(data), "-o", str(page)], check=True)
    print(f"wrote {page}")


if __name__ == "__main__":
    main()
