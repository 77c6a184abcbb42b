"""Help, models, explain, profile, and what every error has in common."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eventide import __version__
from eventide.cli.app import COMMANDS
from eventide.models.registry import architectures
from tests.cli.conftest import Run, start


def test_help(run: Run) -> None:
    found = run("--help")
    assert found.code == 0 and all(f"    {name} " in found.out for name in COMMANDS) and "Exit codes" in found.out
    for name in COMMANDS:
        one = run(name, "--help")
        assert one.code == 0 and f"eventide {name}" in one.out and len(one.out.splitlines()) > 10


def test_version(run: Run) -> None:
    assert run("--version").out == f"eventide {__version__}\n"


def test_as_a_module() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "eventide", "--version"], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}, check=False,
    )  # fmt: skip
    assert found.returncode == 0 and found.stdout == f"eventide {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("frobnicate",), "invalid choice: 'frobnicate'"),
        (("models", "--frob"), "unrecognized arguments: --frob"),
    ],
)
def test_bad_arguments(run: Run, arguments: tuple[str, ...], message: str) -> None:
    found = run(*arguments)
    assert found.code == 2 and found.err.startswith("error: ") and message in found.err and "--help" in found.err
    assert found.out == "" and "Traceback" not in found.err


def test_models(run: Run, small: Path) -> None:
    listed = json.loads(run("models", "--json").out)
    assert listed["architectures"] == list(architectures())
    assert listed["bundled"]["eventide-tiny"]["num_parameters"] == 3_870_336
    text = run("models").out
    assert "eventide-tiny" in text and "3,870,336" in text and "LlamaForCausalLM" in text
    one = json.loads(run("models", small, "--json").out)
    assert one["num_layers"] == 1 and one["cache_bytes_per_token"] == 2 * 1 * 16 * 4
    assert "vocab_size" in run("models", small).out


def test_explain(run: Run, small: Path) -> None:
    arguments = ("explain", small, "--device", "interp", "--steps", 2, "--batch", 2, "--context", 20)
    report = json.loads(run(*arguments, "--json").out)
    rows = {row["name"]: row for row in report["rows"]}
    # weights in float32 dominate: qkv [64, 32] and the norm that is fused into it, read once
    assert rows["qkv"]["read_bytes"] == 4 * (64 * 32 + 32 + 2 * 32) and rows["qkv"]["written_bytes"] == 4 * 2 * 64
    # 21 positions of keys and values for each of two sequences
    assert rows["attn"]["read_bytes"] > 2 * 2 * 21 * 16 * 4
    assert report["elapsed_ms"] > 0 and report["bandwidth"] > 1e8
    assert report["total_bytes"] == sum(row["read_bytes"] + row["written_bytes"] for row in report["rows"])
    assert all(row["work_ms"] > 0 and row["bound_ms"] > 0 for row in report["rows"])
    text = run(*arguments, "--prefill").out
    assert "a prefill step of 2 × 20 tokens" in text and "gate_up" in text and "of the bandwidth reached" in text


def test_profile(run: Run, small: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    found = json.loads(run("profile", small, "--device", "interp", "--steps", 2, "-o", trace, "--json").out)
    slices = [event for event in json.loads(trace.read_text())["traceEvents"] if event["ph"] == "X"]
    assert found["num_steps"] == 2 and found["num_tasks"] == len(slices)
    assert {event["args"]["step"] for event in slices} == {0, 1}
    assert "https://ui.perfetto.dev" in run("profile", small, "--device", "interp", "--steps", 1, "-o", trace).out
    bad = run("profile", small, "--device", "interp", "-o", tmp_path / "no" / "t.json")
    assert bad.code == 2 and "can't be written" in bad.err


@pytest.mark.parametrize("shape", [("--batch", 0), ("--batch", 65), ("--context", 256), ("--steps", 0, "--batch", 0)])
def test_explain_bad_shapes(run: Run, small: Path, shape: tuple[str, ...]) -> None:
    found = run("explain", small, "--device", "interp", *shape)
    assert found.code == 2 and "must be from 1 to" in found.err


def test_starts_quickly_and_reports_its_exit_code() -> None:
    process = start("models", "no-such-model")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 3 and out == "" and err.startswith("error: no model 'no-such-model'")
