"""The sdist and the wheel: built from what is committed, installed into a clean environment, used. (`make package`)"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _asked_for(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--package"):
        pytest.skip("builds and installs packages, which takes minutes: pytest tests/package --package (make package)")


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of both, the wheel built from the sdist."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", out, ROOT], check=True, timeout=500)
    return out


def test_sdist_holds_what_a_build_needs_and_no_more(dist: Path) -> None:
    (sdist,) = dist.glob("eventide-*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {"/".join(name.split("/")[1:]) for name in archive.getnames()}
    for needed in ("pyproject.toml", "LICENSE", "native/CMakeLists.txt", "src/eventide/ops/linear/cpu.h", "Makefile"):
        assert needed in names
    assert "src/eventide/models/bundled/eventide-tiny/model.safetensors" in names
    assert not [name for name in names if name.endswith((".so", ".pyc")) or name.startswith((".venv", "build/", "dist/"))]
    assert sdist.stat().st_size < 20e6


def test_wheel_holds_the_package_alone(dist: Path) -> None:
    (wheel,) = dist.glob("eventide-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} <= {"eventide", f"{wheel.name.split('-cp')[0]}.dist-info"}
    for needed in ("_native", "py.typed", "ops/linear/cpu.h", "device/cpu/task.h", "bundled/eventide-tiny/tokenizer.json"):
        assert [name for name in names if needed in name], needed


def test_wheel_runs_in_a_clean_environment(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("eventide-*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True, timeout=300)
    found = subprocess.run(
        [tmp_path / "venv" / "bin" / "eventide", "generate", "eventide-tiny", "Once upon a time", "-n", "8", "-t", "0"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert found.returncode == 0 and len(found.stdout) > 8, found.stderr
    installed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True).stdout
    assert "torch" not in installed and "nvidia" not in installed
    # the core of the bench says what it needs where its extra isn't installed
    bench = subprocess.run([tmp_path / "venv" / "bin" / "eventide", "bench", "check", "."], capture_output=True, text=True)
    assert bench.returncode == 5 and "pip install 'eventide[bench]'" in bench.stderr
