"""`eventide bench ...` as a person and as a program meet it: output, exit codes, JSON, help."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eventide.bench import TraceSet
from eventide.cli import bench
from eventide.errors import BenchError, SchemaError, UsageError

from .demo import demo
from .records import DEFINITION, SOLUTION, changed


def call(*argv: str) -> int:
    """The exit code of a command line."""
    return bench._run([str(a) for a in argv])


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    return demo(tmp_path / "demo").root or tmp_path


def read_json(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_check_a_clean_data_set(shown: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("check", str(shown)) == 0
    out = capsys.readouterr().out
    assert out == "checked 3 definitions, 12 solutions, 9 workloads, 72 traces: 0 errors, 0 warnings\n"


def test_check_names_file_line_and_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "d.json"
    file.write_text(json.dumps(changed(DEFINITION, "axes.hidden.value", True), indent=2))
    assert call("check", str(file)) == SchemaError.exit_code == 7
    out = capsys.readouterr().out
    assert out.startswith(f"error: {file}:10: axes.hidden.value: input should be a valid integer, got True\n")
    assert "checked 1 definition: 1 errors, 0 warnings" in out
    assert call("check", str(file), "--json") == 7
    answer = read_json(capsys)
    assert answer["ok"] is False and answer["counts"] == {"definition": 1}
    assert answer["problems"][0] | {"message": ""} == {
        "path": str(file),
        "line": 10,
        "field": "axes.hidden.value",
        "message": "",
        "level": "error",
    }


def test_check_several_paths_and_strictness(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = TraceSet(root=tmp_path / "data")
    from eventide.bench import Solution

    data.add_solution(Solution.model_validate(SOLUTION))  # of a definition that is not there: a warning
    assert call("check", str(data.root)) == 0
    assert "warning: solutions/" in capsys.readouterr().out
    assert call("check", str(data.root), "--quiet") == 0
    assert "warning: " not in capsys.readouterr().out
    assert call("check", str(data.root), "--strict") == 7
    capsys.readouterr()
    assert call("check", str(data.root), str(tmp_path / "absent.json")) == 7
    assert "absent.json does not exist" in capsys.readouterr().out


def test_check_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text("{}")
    assert call("check", str(tmp_path / "x.json")) == 7
    assert "say it with --kind" in capsys.readouterr().err
    assert call("check", str(tmp_path / "x.json"), "--kind", "workload") == 7
    assert "uuid: this field is required" in capsys.readouterr().out


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (("check", "absent"), ("report", "summary", "absent"), ("unpack", "absent"), ("pack", "absent")):
        assert call(*argv) == BenchError.exit_code
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ") and captured.err.count("\n") == 1 and captured.out == ""


def test_files_that_cannot_be_written_or_are_absurd(
    shown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 100_000)
    folder = tmp_path / "solution"
    folder.mkdir()
    (folder / "solution.json").write_text("[" * 100_000)
    (tmp_path / "file").write_text("")
    for argv in (
        ("report", "html", str(shown), "-o", str(tmp_path / "absent" / "page.html")),
        ("check", str(deep)),
        ("check", str(deep), "--kind", "definition"),
        ("pack", str(folder)),
        ("new", "data", str(tmp_path / "file" / "below")),
        ("report", "merge", str(shown), "-o", str(tmp_path / "file" / "below")),
    ):
        assert call(*argv) == 7, argv
        captured = capsys.readouterr()
        assert captured.out.startswith("error: ") or captured.err.startswith("error: "), argv


def test_from_nothing_to_a_packed_solution(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("new", "data", "data") == 0
    assert call("new", "definition", "data", "--name", "scale", "--op-type", "elementwise") == 0
    assert call("new", "solution", "data", "--definition", "scale", "--author", "ada", "--to", "mine") == 0
    assert (tmp_path / "mine/main.py").is_file()
    assert call("pack", "mine", "--data", "data") == 0
    out = capsys.readouterr().out
    assert "data/solutions/ada/elementwise/scale/scale_python.json" in out
    assert call("check", "data", "--strict") == 0
    assert call("unpack", "scale_python", "again", "--data", "data") == 0
    assert (tmp_path / "again/main.py").read_bytes() == (tmp_path / "mine/main.py").read_bytes()
    capsys.readouterr()
    assert call("pack", "again", "-o", "s.json", "--json") == 0
    assert read_json(capsys)["name"] == "scale_python"
    assert call("unpack", "s.json", "third", "--json") == 0
    assert read_json(capsys) == ["third/solution.json", "third/main.py"]
    assert call("pack", "third") == 0
    assert read_json(capsys)["author"] == "ada"
    # what must not work
    assert call("pack", "again", "--data", "data") == 7
    assert "is already in" in capsys.readouterr().err
    assert call("pack", "again", "-o", "s.json") == 7
    assert call("pack", "again", "-o", "t.json", "--data", "data") == UsageError.exit_code == 2
    assert call("new", "definition", "data") == 2
    assert call("new", "solution", "data") == 2
    assert call("new", "solution", "data", "--definition", "nothing") == 7
    assert call("unpack", "nothing", "--data", "data") == 7


def test_report_summary(shown: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("report", "summary", str(shown)) == 0
    out = capsys.readouterr().out
    assert "traces       72\n" in out and "PASSED 66, RUNTIME_ERROR 6" in out
    assert call("report", "summary", str(shown), "--json") == 0
    assert read_json(capsys)["statuses"] == {"PASSED": 66, "RUNTIME_ERROR": 6}


def test_report_best(shown: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("report", "best", str(shown), "--hardware", "NVIDIA H200") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and "scale_h8_ada_cuda" in lines[3] and lines[3].endswith("3/3  yes")
    assert call("report", "best", str(shown), "--definition", "scale_h8", "--all", "--json") == 0
    rows = read_json(capsys)
    assert [r["author"] for r in rows[:4]] == ["ada", "baseline", "grace", "eve"] and len(rows) == 8
    assert rows[0]["clearly_faster_than_next"] is True and rows[3]["clearly_faster_than_next"] is None
    assert rows[0]["score"] == pytest.approx(2.5)
    assert call("report", "best", str(shown), "--authors") == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["ada", "AMD", "EPYC", "2.500", "3"]
    assert call("report", "best", str(shown), "--hardware", "abacus") == 7
    assert "no results that fit" in capsys.readouterr().err


def test_report_merge_and_html(shown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("report", "merge", str(shown), str(shown), "-o", str(tmp_path / "merged"), "--json") == 0
    assert read_json(capsys)["repeated"] == {"definitions": 3, "solutions": 12, "workloads": 9, "traces": 72}
    assert call("report", "merge", str(shown), "-o", str(tmp_path / "merged")) == 7
    page = tmp_path / "page.html"
    assert call("report", "html", str(tmp_path / "merged"), "-o", str(page), "--title", "mine") == 0
    assert "<title>mine · kernel leaderboard</title>" in page.read_text()
    assert "page.html (" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv", [[], ["check"], ["run"], ["export"], ["new"], ["pack"], ["unpack"], ["report"], ["report", "best"]]
)
def test_help_is_worth_reading(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        call(*argv, "--help")
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert len(out) > 250 and "usage: eventide bench" in out


def test_it_runs_as_a_module(shown: Path) -> None:
    source = Path(__file__).parents[2] / "src"
    command = [sys.executable, "-m", "eventide.cli.bench", "check", str(shown)]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(source)})
    assert (done.returncode, done.stderr) == (0, "") and "0 errors" in done.stdout


def test_without_pydantic(shown: Path, tmp_path: Path) -> None:
    (tmp_path / "pydantic.py").write_text("raise ImportError('not here')")
    source = Path(__file__).parents[2] / "src"
    command = [sys.executable, "-m", "eventide.cli.bench", "check", str(shown)]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": f"{tmp_path}:{source}"})
    assert done.returncode == 5
    assert done.stderr == (
        "error: `eventide bench` needs pydantic, which is not installed: pip install 'eventide[bench]'\n"
    )


def test_run_measures_and_remembers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    data = TraceSet(root=root)
    from eventide.bench import Definition, Solution, Trace

    from .records import TRACE

    data.add_definition(Definition.model_validate(DEFINITION))
    data.add_solution(Solution.model_validate(SOLUTION))
    wrong = changed(changed(SOLUTION, "name", "wrong"), "sources.0.content", "def run(x, alpha, y):\n    y[...] = x\n")
    data.add_solution(Solution.model_validate(wrong))
    data.add_traces([Trace.model_validate({**TRACE, "solution": None, "evaluation": None})])
    quick = ["--iterations", "5", "--trials", "1", "--warmup-runs", "1", "--set", "correctness_rounds=1"]
    argv = ["run", str(root), "--device", "cpu", "--unsafe", *quick]
    assert call(*argv) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].split()[:4] == ["definition", "solution", "workload", "status"] and len(lines) == 3
    assert {line.split()[1]: line.split()[3] for line in lines[1:]} == {
        "scale_numpy": "PASSED",
        "wrong": "INCORRECT_NUMERICAL",
    }
    assert call("check", str(root), "--strict") == 0
    assert call(*argv, "--json") == 0  # the same sources on the same hardware: nothing to do
    captured = capsys.readouterr()
    assert json.loads(captured.out[captured.out.index("{") :]) == {"traces": [], "skipped": [], "resumed": 2}
    assert call(*argv, "--again", "--solution", "scale_*", "--json") == 0
    assert len(read_json(capsys)["traces"]) == 1
    assert call("report", "best", str(root), "--json") == 0
    best = read_json(capsys)
    assert [(r["solution"], r["passed"], r["workloads"]) for r in best] == [("scale_numpy", 1, 1)]
    assert call(*argv, "--solution", "nobody") == 0
    assert "nothing was measured: no solution and workload" in capsys.readouterr().err


def test_a_sandbox_that_confines_nothing_must_be_asked_for_twice(
    shown: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", str(shown), "--device", "cpu", "--sandbox", "none") == BenchError.exit_code
    assert "confines nothing; pass --unsafe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "iterations"], "--set takes name=value with a JSON value"),
        (["--set", "iterations=many"], "--set takes name=value with a JSON value"),
        (["--set", "colour=1"], "no setting is called 'colour'"),
        (["--iterations", "0"], "iterations must be at least 1, got 0"),
        (["--max-workloads", "0"], "--max-workloads must be at least 1, got 0"),
        (["--device", "abacus"], "unknown device 'abacus'"),
    ],
)
def test_run_with_bad_options(
    shown: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", str(shown), *options) == UsageError.exit_code
    assert message in capsys.readouterr().err
