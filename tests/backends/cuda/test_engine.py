"""`LLM(device="cuda")`: what the engine offers, on a GPU, beside transformers in float32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import eventide
from eventide import SamplingParams
from eventide.backends.cuda.driver import Device
from eventide.cli import main
from eventide.engine import cuda
from eventide.engine.cuda import CudaRunner
from eventide.engine.measure import measured_steps, read_bandwidth
from eventide.engine.sizes import Size, sizes_for
from eventide.engine.steps import Chunk, make_step, split_step
from eventide.errors import DeviceError, UsageError
from eventide.models import hub
from eventide.models.decoder import Limits
from eventide.profile.explain import explain
from eventide.profile.traffic import traffic
from tests import programs
from tests.backends.cuda.gpu import need_gpu
from tests.checkpoints import Shape, load_reference, make_checkpoint

SHAPE = Shape(
    hidden_size=128,
    intermediate_size=256,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    vocab_size=512,
    dtype="bfloat16",
)


def test_a_step_is_split_without_losing_rows() -> None:
    limits = Limits(max_tokens=64, max_rows=8, max_seqs=4, max_seq_len=64, page_size=16)
    step = make_step(
        limits, [Chunk(0, 3, 20), Chunk(1, 0, 5, rows="none", sample=False), Chunk(2, 7, 1), Chunk(3, 0, 2)], 1
    )
    parts = split_step(step, 8)
    assert [p.symbols["num_tokens"] for p in parts] == [8, 8, 8, 4]
    for name in ("seq", "pos", "slot", "row_seq", "row_pos", "seed"):
        assert np.array_equal(np.concatenate([p.inputs[name] for p in parts]), step.inputs[name])
    rows = np.concatenate([p.inputs["logit_rows"] + 8 * i for i, p in enumerate(parts)])
    assert np.array_equal(rows, step.inputs["logit_rows"])
    assert sum(p.symbols["num_samples"] for p in parts) == 3
    assert split_step(step, 28) == [step]
    # tiles of up to 4 tokens of one sequence
    parts = split_step(step, 16, 4)
    assert [p.inputs["tile_indptr"].tolist() for p in parts] == [[0, 4, 8, 12, 16], [0, 4, 5, 7, 11, 12]]
    assert parts[1].inputs["tile_seq"].tolist() == [0, 2, 3, 1, 1] and parts[1].symbols["num_tiles"] == 5


def sizes_of(max_seqs: int, **changes: int) -> list[Size]:
    return sizes_for(programs.config(**changes), max_seqs)


SMALL = {"hidden_size": 1024, "intermediate_size": 3072, "head_dim": 128}
SLIM = {"hidden_size": 4096, "intermediate_size": 12288, "head_dim": 128}


def test_kernels_for_batches_follow_the_model() -> None:
    """Where a batch's products are slim or direct its kernel takes over from four sequences on, else from eight."""
    ragged = ({**SLIM, "intermediate_size": 8640}, {**SMALL, "hidden_size": 576}, {**SMALL, "intermediate_size": 2730})
    for changes, tile, few, splits in ((SLIM, 4, 4, 1), (SMALL, 8, 4, 4), *((r, 8, 8, 4) for r in ragged)):
        sizes = sizes_of(64, **changes)
        assert [(s.tile, s.most) for s in sizes if s.decode] == [(1, 1), (tile, few), (16, 16), (32, 32), (64, 64)]
        assert [s.splits for s in sizes if s.decode] == [0, 0, splits, 4, 4]
        assert [s.tile for s in sizes if s.direct] == [16] * (changes is SMALL)
        assert [(s.tile, s.splits) for s in sizes if not s.decode] == [(8, 0), (64, 4), (256, 2)]
        assert sizes[-1].most == 2048
        # without those for sequences of one token each
        sizes = sizes_of(64, **{**changes, "num_heads": 16, "num_kv_heads": 2})
        assert [(s.tile, s.most) for s in sizes if s.decode] == [(1, 1), (tile, tile)]
        assert [(s.tile, s.splits) for s in sizes if not s.decode] == [(8, 0), (16, splits), (32, 4), (64, 4), (256, 2)]
    assert [s.most for s in sizes_of(12, **SLIM) if s.decode] == [1, 4, 12]
    assert [s.most for s in sizes_of(8, **SLIM) if s.decode] == [1, 4, 8]
    # every step of a batch that only the kernel for prompts holds has inputs for all its tokens
    assert sizes_of(512, **SLIM)[-1].most == 512


@pytest.mark.parametrize("slim, alone", [(False, True), (True, True), (False, False), (True, False)])
def test_a_batch_goes_to_the_kernel_that_decodes_it_and_is_profiled_there(slim: bool, alone: bool) -> None:
    sizes = sizes_of(64, **(SLIM if slim else SMALL), **({} if alone else {"num_heads": 16, "num_kv_heads": 2}))
    kernels = {size: SimpleNamespace(plan=size) for size in sizes}
    runner = CudaRunner(kernels, Limits(max_seqs=64, max_seq_len=64))  # type: ignore[arg-type]
    batches = (1, 2, 4, 5, 8, 9, 17, 64)
    tiles = {n: (runner._decode_kernel(n) or runner._batch_kernel(n)[1]).plan.tile for n in batches}  # type: ignore[attr-defined]
    few, next_tile = 4 if slim else 8, 16 if slim or alone else 8
    assert tiles == {1: 1, 2: few, 4: few, 5: next_tile, 8: next_tile, 9: 16, 17: 32, 64: 64}
    assert (runner._decode_kernel(64) is not None) == alone
    for n in () if alone else (9, 17, 64, *((5, 8) if slim else ())):
        step = make_step(runner.limits, [Chunk(s, 3, 1) for s in range(n)], 1)
        assert runner.parts(step)[0].tile == tiles[n]  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_other_dtypes_are_refused(dtype: str) -> None:
    if dtype == "float32":
        with pytest.raises(
            UsageError, match="the GPU computes in bfloat16 only, got dtype='float32'; use dtype='bfloat16' or"
        ):
            eventide.LLM("eventide-tiny", device="cuda", dtype=dtype)
    else:
        with pytest.raises(UsageError):
            eventide.LLM("eventide-tiny", device="cuda", dtype=dtype)


def test_auto_goes_on_with_the_cpu_and_says_why(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A GPU that was there a moment ago: what comes after finds none, or one that the model doesn't fit."""
    monkeypatch.setattr(cuda, "usable_device", lambda: "a GPU")
    monkeypatch.setattr(cuda, "_device", lost_device)
    with pytest.warns(RuntimeWarning, match="runs on the CPU, not on the GPU: the GPU's context is lost"):
        llm = eventide.LLM(checkpoint, num_threads=1, max_seq_len=64)
    assert llm.device == "cpu" and len(llm.generate([5, 6], SamplingParams(max_new_tokens=2)).token_ids) == 2
    llm.close()
    with pytest.raises(DeviceError, match="the GPU's context is lost"):
        eventide.LLM(checkpoint, device="cuda")
    assert main(["generate", str(checkpoint), "once", "-n", "2", "--threads", "1"]) == 0
    assert "note: " in (told := capsys.readouterr().err) and "runs on the CPU, not on the GPU" in told


def lost_device() -> None:
    raise DeviceError("the GPU's context is lost; use device='cpu'")


@pytest.mark.gpu
def test_a_model_that_the_gpu_does_not_take_runs_on_the_cpu(tmp_path: Path) -> None:
    need_gpu()
    pytest.importorskip("eventide._native", reason="the CPU's workers aren't built here")
    odd = make_checkpoint(tmp_path / "odd", replace(SHAPE, head_dim=24))
    with pytest.warns(RuntimeWarning, match="can't run on the GPU: attention needs a head size"):
        llm = eventide.LLM(odd, num_threads=1, max_seq_len=64)
    assert llm.device == "cpu"
    with pytest.raises(
        DeviceError, match=r"can't run on the GPU: attention needs a head size of 8, .*; use device='cpu'"
    ):
        eventide.LLM(odd, device="cuda", max_seq_len=64)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("models") / "gpu", SHAPE, tokenizer=True)


@pytest.fixture(scope="module")
def llm(checkpoint: Path) -> Iterator[eventide.LLM]:
    need_gpu()
    with eventide.LLM(checkpoint) as loaded:
        assert loaded.device == "cuda", "a usable GPU is the default"
        yield loaded


PROMPT = [int(i) for i in np.random.default_rng(5).integers(3, 500, 45)]


@pytest.mark.gpu
def test_logits(llm: eventide.LLM, checkpoint: Path) -> None:
    import torch

    with torch.no_grad():
        want = load_reference(checkpoint)(torch.tensor([PROMPT])).logits[0].float().numpy()
        half = load_reference(checkpoint, "bfloat16")(torch.tensor([PROMPT])).logits[0].float().numpy()
    error = np.linalg.norm(llm.logits(PROMPT) - want) / np.linalg.norm(want)
    peer = np.linalg.norm(half - want) / np.linalg.norm(want)
    print(f"relative error {error:.5f}, transformers in bfloat16 {peer:.5f}")
    assert 1e-5 < error < 1.5 * peer


@pytest.mark.gpu
def test_generate_is_greedy_and_repeatable(llm: eventide.LLM) -> None:
    params = SamplingParams(max_new_tokens=40, temperature=0, ignore_eos=True)
    first = llm.generate(PROMPT, params)
    assert len(first.token_ids) == 40 and llm.generate(PROMPT, params).token_ids == first.token_ids
    logits = llm.logits([*PROMPT, *first.token_ids])[len(PROMPT) - 1 : -1]
    for row, token in zip(logits, first.token_ids):
        assert row.max() - row[token] < 0.05 * row.std() + 0.05


@pytest.mark.gpu
def test_stream_batch_stop_and_seeds(llm: eventide.LLM) -> None:
    sampled = SamplingParams(max_new_tokens=30, temperature=0.9, top_p=0.95, seed=11, ignore_eos=True)
    whole = llm.generate(PROMPT, sampled)
    pieces = list(llm.stream(PROMPT, sampled))
    assert [t for p in pieces for t in p.token_ids] == whole.token_ids and len(pieces) > 1
    assert "".join(p.text for p in pieces) == whole.text
    batch = llm.generate(
        [PROMPT, PROMPT[:7], PROMPT[:20]], SamplingParams(max_new_tokens=12, temperature=0, ignore_eos=True)
    )
    assert [len(c.token_ids) for c in batch] == [12, 12, 12]
    logits = llm.logits([*PROMPT[:7], *batch[1].token_ids])[6:-1]
    for row, token in zip(logits, batch[1].token_ids):
        assert row.max() - row[token] < 0.05 * row.std() + 0.05
    stop = whole.text[len(whole.text) // 2 :][:3]
    if stop:
        cut = llm.generate(PROMPT, replace(sampled, stop=stop))
        assert cut.finish_reason == "stop" and stop not in cut.text and whole.text.startswith(cut.text)


@pytest.mark.gpu
def test_chat_and_the_bundled_model(llm: eventide.LLM) -> None:
    import torch

    answer = llm.chat([{"role": "user", "content": "Hello!"}], SamplingParams(max_new_tokens=5, temperature=0))
    assert 1 <= len(answer.token_ids) <= 5
    # heads of 32: no kernel for one sequence alone
    with eventide.LLM("eventide-tiny", device="cuda") as tiny:
        assert isinstance(tiny._runner, CudaRunner) and min(tiny._runner._decode) == 16
        text = tiny.generate("Once upon a time", SamplingParams(max_new_tokens=60, temperature=0)).text
        assert len(text) > 80
        ids = tiny.tokenizer.encode("Once upon a time, there was a")  # type: ignore[union-attr]
        with torch.no_grad():
            b = load_reference(hub.resolve("eventide-tiny"))(torch.tensor([ids])).logits[0].float().numpy()
        a = tiny.logits(ids)
        assert np.linalg.norm(a - b) / np.linalg.norm(b) < 0.03
        print(repr(text))


@pytest.mark.gpu
def test_a_generation_is_two_launches_and_streams_out_of_them(
    llm: eventide.LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for the prompt, one for all that follows."""
    runner = llm._runner
    assert isinstance(runner, CudaRunner)
    launched: list[int] = []
    launch = Device.launch

    def counted(device: Device, *args: Any, **options: Any) -> None:
        launched.append(options.get("cooperative", False))
        launch(device, *args, **options)

    monkeypatch.setattr(Device, "launch", counted)
    params = SamplingParams(max_new_tokens=200, temperature=0, ignore_eos=True)
    pieces = list(llm.stream(PROMPT, params))
    assert launched == [True, True] and sum(len(p.token_ids) for p in pieces) == 200 and len(pieces) > 1
    launched.clear()
    assert llm.generate(PROMPT, params).token_ids == [t for p in pieces for t in p.token_ids] and launched == [
        True,
        True,
    ]
    # whoever has read enough ends the launch
    stream = llm.stream(PROMPT, replace(params, max_new_tokens=200))
    first = [next(stream), next(stream)]
    stream.close()
    assert [t for p in first for t in p.token_ids] == [t for p in pieces for t in p.token_ids][
        : sum(len(p.token_ids) for p in first)
    ]
    assert llm.generate(PROMPT, params).token_ids == [t for p in pieces for t in p.token_ids]


@pytest.mark.gpu
def test_streams_that_take_turns(llm: eventide.LLM) -> None:
    """The second ends the first one's launch; both go on where they were."""
    params = [SamplingParams(max_new_tokens=150, temperature=0.8, seed=s, ignore_eos=True) for s in (1, 2)]
    prompts = [PROMPT, PROMPT[:9]]
    want = [llm.generate(p, s).token_ids for p, s in zip(prompts, params)]
    streams = [llm.stream(p, s) for p, s in zip(prompts, params)]
    got: list[list[int]] = [[], []]
    for turn in range(400):
        piece = next(streams[turn % 2], None)
        got[turn % 2] += piece.token_ids if piece else []
        if turn == 5:
            llm.logits(PROMPT[:5])
    assert got == want


@pytest.mark.gpu
@pytest.mark.parametrize("prefill", [False, True])
def test_profile_and_explain(llm: eventide.LLM, prefill: bool) -> None:
    plan, steps, found = measured_steps(llm, 1, 20, prefill, 4)
    assert len(found) == 4 and len(steps) == 1
    tasks = [traffic(plan, step.symbols, step.inputs) for step in steps]
    for timeline in found:
        assert timeline.num_workers <= 132 and {s.step for s in timeline.spans} == set(range(len(steps)))
        for grid, share in timeline.by_grid().items():
            assert share.num_tasks == sum(part[grid].num_tasks for part in tasks)
        for s in timeline.spans:
            assert s.wait_ns <= s.start_ns <= s.end_ns <= s.published_ns or s.published_ns == 0
            assert 0 <= s.memory_ns <= s.end_ns - s.start_ns + 50 and (s.weights_ns == 0 or s.weights_ns <= s.end_ns)
        linear = [s for s in timeline.spans if s.op == "linear"]
        # the warp that is looked at has no part in the smallest runs
        assert linear and any(s.weights_ns for s in linear)
    report = explain(plan, steps, found, bandwidth=read_bandwidth(llm))
    assert 1e12 < report.bandwidth < 6e12 and report.elapsed_ms is not None
    # a worker's time is its waits and its work, and what lies between
    busy = sum((row.work_ms or 0) + (row.wait_ms or 0) for row in report.rows)
    assert 0.3 * report.elapsed_ms < busy <= 1.05 * report.elapsed_ms


@pytest.mark.gpu
def test_per_op_through_the_engine(llm: eventide.LLM, checkpoint: Path) -> None:
    params = SamplingParams(max_new_tokens=60, temperature=0.7, seed=5, ignore_eos=True)
    with eventide.LLM(checkpoint, device="cuda", schedule="per_op") as other:
        assert other.generate(PROMPT, params).token_ids == llm.generate(PROMPT, params).token_ids
        assert np.array_equal(other.logits(PROMPT), llm.logits(PROMPT))
        with pytest.raises(UsageError, match="profile it with NVIDIA's tools"):
            measured_steps(other, 1, 20, False, 2)
