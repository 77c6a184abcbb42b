"""Prints what pyproject.toml requires, with the extras that are named, one requirement a line: so `make test` lets pip fetch
the tests' packages while the extension compiles.

    python tools/requirements.py test > requirements.txt
"""

from __future__ import annotations

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
print(*project["dependencies"], *(line for extra in sys.argv[1:] for line in project["optional-dependencies"][extra]), sep="\n")
