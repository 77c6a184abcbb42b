"""`eventide generate` and `eventide chat`."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints import Shape, edit_json, make_checkpoint
from tests.cli.conftest import PROGRAM, Run, start

GREEDY = ("-n", "6", "-t", "0", "--ignore-eos", "--device", "interp")


def test_one_prompt_streams(run: Run, small: Path) -> None:
    found = run("generate", small, "One and two", *GREEDY)
    again = json.loads(run("generate", small, "One and two", *GREEDY, "--json").out)
    assert found.code == 0 and found.out == again["completions"][0]["text"] + "\n"
    assert "6 tokens in" in found.err and "Traceback" not in found.err
    assert len(again["completions"][0]["token_ids"]) == 6
    assert again["completions"][0]["finish_reason"] == "length"
    assert again["timing"]["num_tokens"] == 6 and again["timing"]["first_token_s"] > 0
    assert again["device"] == "interp" and again["dtype"] == "float32" and again["schedule"] == "static"


def test_several_prompts(run: Run, small: Path) -> None:
    found = run("generate", small, "One", "Two", "--token-ids", "5,6 7", *GREEDY)
    assert [line for line in found.out.splitlines() if line.startswith("--- ")] == [
        "--- 0: length", "--- 1: length", "--- 2: length",
    ]  # fmt: skip


def test_standard_input_is_a_prompt(run: Run, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run("generate", small, "One and two", *GREEDY).out
    monkeypatch.setattr("sys.stdin", io.StringIO("One and two"))
    assert run("generate", small, *GREEDY).out == expected


def test_prompts_may_stand_behind_options(run: Run, small: Path) -> None:
    expected = run("generate", small, "One", "Two", *GREEDY, "--chat").out
    assert "--- 1: length" in expected
    assert run("generate", small, *GREEDY, "--chat", "One", "Two").out == expected
    assert run("generate", *GREEDY, "--chat", small, "One", "Two").out == expected
    assert run("generate").err == "error: the following arguments are required: MODEL (see `eventide generate --help`)\n"


def test_a_terminal_shows_the_prompt_too(small: Path) -> None:
    leader, follower = os.openpty()
    process = start("generate", small, "One and two", *GREEDY, stdout=follower)
    os.close(follower)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert os.read(leader, 4096).decode().startswith("One and two")
    os.close(leader)


def test_chat_template_and_logprobs(run: Run, small: Path) -> None:
    plain, chat = (
        json.loads(run("generate", small, "Hello", *extra, *GREEDY, "--json", "--logprobs", 2).out)["completions"][0]
        for extra in ((), ("--chat",))
    )
    assert plain["token_ids"] != chat["token_ids"]
    assert [entry["token_id"] for entry in plain["logprobs"]] == plain["token_ids"]
    assert all(len(entry["top"]) == 2 for entry in plain["logprobs"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("{}", "x", "--temperature", "-1"), 2, "error: temperature must be a finite number of at least 0"),
        (("{}", "x", "--temperature", "warm"), 2, "error: argument -t/--temperature: invalid float value: 'warm'"),
        (("{}", "x", "--device", "tpu"), 2, "error: device must be one of auto,"),
        (("{}", "--token-ids", "1,x"), 2, "error: --token-ids expects integers separated by commas, got '1,x'"),
        (("{}", "", "--device", "interp"), 2, "error: the prompt is empty"),
        (("{}", "--token-ids", "999", "--device", "interp"), 2, "error: token id 999 is outside the vocabulary"),
        (("no-such-model", "x"), 3, "error: no model 'no-such-model'"),
        (("{}/config.json", "x"), 2, "is a file; give the directory"),
    ],
)
def test_errors(run: Run, small: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    found = run("generate", *(argument.format(small) for argument in arguments))
    assert found.code == code and message in found.err and found.out == ""
    assert "Traceback" not in found.err and len(found.err.strip().splitlines()) == 1


def test_prompts_that_are_no_text(small: Path) -> None:
    given = start("generate", small, b"\xff\xfe".decode(errors="surrogateescape"), *GREEDY)
    piped = start("generate", small, *GREEDY, stdin=subprocess.PIPE)
    for process, text in ((given, None), (piped, "caf\udce9")):
        if text is not None:
            assert process.stdin is not None
            process.stdin.buffer.write(text.encode(errors="surrogateescape"))  # type: ignore[attr-defined]
        out, err = process.communicate(timeout=60)
        assert process.returncode == 2 and out == "" and err.startswith("error: "), err
        assert "Traceback" not in err and len(err.strip().splitlines()) == 1


def test_an_output_that_cannot_say_it(run: Run, tmp_path: Path) -> None:
    """A terminal that knows ASCII alone gets question marks, and JSON escapes."""
    shape = Shape(hidden_size=32, intermediate_size=48, num_layers=1, num_heads=2, num_kv_heads=1)
    model = make_checkpoint(tmp_path / "\u00e9", shape, tokenizer=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONIOENCODING": "ascii"}
    for extra in ((), ("--json",)):
        found = subprocess.run(
            [*PROGRAM, "models", str(model), *extra], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert found.returncode == 0 and found.stderr == ""
        assert json.loads(found.stdout)["directory"] == str(model) if extra else "?" in found.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_that_is_full(small: Path) -> None:
    with open("/dev/full", "w") as full:
        process = start("generate", small, "One", *GREEDY, stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 5 and "No space left on device" in err and "Traceback" not in err


def test_what_the_authors_ask_for_and_nobody_does_is_said(run: Run, small: Path, tmp_path: Path) -> None:
    model = shutil.copytree(small, tmp_path / "model")
    edit_json(model / "generation_config.json", repetition_penalty=1.1)
    found = run("generate", model, "One", *GREEDY)
    assert found.code == 0 and "note: generation_config.json of " in found.err
    assert "asks for repetition_penalty, which Eventide doesn't do" in found.err
    assert "note:" not in run("generate", small, "One", *GREEDY).err


def test_not_enough_memory(run: Run, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTIDE_MEMORY_LIMIT", "1KiB")
    found = run("generate", small, "x")
    assert found.code == 5 and found.err.startswith("error: the weights of small in float32 need ")
    monkeypatch.setenv("EVENTIDE_MEMORY_LIMIT", "lots")
    assert run("generate", small, "x").code == 2


def test_interrupt_prints_what_was_generated() -> None:
    process = start(
        "generate", "eventide-tiny", "Once upon a time", "-n", "900", "--ignore-eos", "-t", "0", "--device", "interp"
    )
    assert process.stdout is not None and process.stderr is not None
    first = process.stdout.read(3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and first and out.endswith("\n")
    assert "interrupted" in err and "Traceback" not in err


def test_interrupt_with_json_is_still_json() -> None:
    process = start(
        "generate", "eventide-tiny", "Once", "-n", "900", "--ignore-eos", "-t", "0", "--json", "--device", "interp"
    )
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    if out:  # nothing is printed when the signal came before the model was loaded
        assert json.loads(out)["completions"][0]["finish_reason"] == "interrupted"


def test_a_reader_that_leaves() -> None:
    process = start("generate", "eventide-tiny", "Once", "-n", "200", "--ignore-eos", "--device", "interp")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 141 and err.strip() == ""


def test_chat(run: Run, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n\n/clear\nHello\n/quit\nnever read\n"))
    found = run("chat", small, *GREEDY, "--system", "Be brief.", "--json")
    assert found.code == 0
    decoder, text, answers = json.JSONDecoder(), found.out.strip(), []
    while text:
        answer, end = decoder.raw_decode(text)
        answers.append(answer["content"])
        text = text[end:].strip()
    assert len(answers) == 2 and answers[0] == answers[1]
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n"))
    assert run("chat", small, *GREEDY, "--system", "Be brief.").out == answers[0] + "\n"


def test_chat_that_outgrows_the_context(run: Run, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello " * 300 + "\n"))
    found = run("chat", small, *GREEDY)
    assert found.code == 2 and "tokens, and the context holds 256" in found.err


def test_interrupt_inside_the_native_loop(tmp_path: Path) -> None:
    """The CPU workers stop in the middle of a call that would run for long."""
    sizes = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 12, "vocab_size": 32000}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 64}
    config = {"architectures": ["Qwen3ForCausalLM"], "torch_dtype": "bfloat16", "max_position_embeddings": 4096}
    (tmp_path / "config.json").write_text(json.dumps({**config, **sizes, **heads}))
    process = start(
        "generate", tmp_path, "--token-ids", "1,2,3", "--load-format", "dummy", "-n", "4000", "--ignore-eos", "--threads", 2
    )
    assert process.stdout is not None
    assert process.stdout.read(2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out.endswith("\n")
    assert "interrupted" in err and "Traceback" not in err


def test_a_terminal_sees_progress_and_a_conversation() -> None:
    leader, follower = os.openpty()
    process = start("chat", "eventide-tiny", "-t", "0", stdin=follower, stderr=follower)
    os.close(follower)
    shown = ""

    def until(text: str) -> None:
        nonlocal shown
        while text not in shown:
            shown += os.read(leader, 4096).decode()

    until("/quit leaves.")
    os.write(leader, b"What is 12 plus 30?\n")
    until("tokens/s)")
    os.write(leader, b"/quit\n")
    assert process.stdout is not None
    out = process.stdout.read()
    process.stdout.close()
    assert process.wait(30) == 0 and "42" in out and "loading weights" in shown
    os.close(leader)
