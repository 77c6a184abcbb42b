"""The step loop: many steps a launch where nothing needs the host, and what ends them early."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

import eventide
from eventide import Engine, Request, SamplingParams
from eventide.engine.generation import Generation
from eventide.engine.loop import StepLoop
from eventide.engine.runner import Runner, Running
from eventide.engine.steps import Step
from eventide.errors import UsageError


@pytest.fixture(scope="module")
def llm() -> Iterator[eventide.LLM]:
    with eventide.LLM("eventide-tiny", device="cpu", dtype="float32", num_threads=1, max_seq_len=320, max_seqs=8) as model:
        yield model


def long(n: int, **more: object) -> SamplingParams:
    return SamplingParams(max_new_tokens=n, temperature=0, ignore_eos=True, **more)  # type: ignore[arg-type]


def loop_of(llm: eventide.LLM, prompts: list[list[int]], params: SamplingParams, part_s: float = float("inf")) -> StepLoop:
    loop = StepLoop(llm._runner, llm._pool, llm.limits.max_tokens, part_s)
    for i, (prompt, resolved) in enumerate(llm._requests(prompts, params)):
        loop.add(Generation.of(i, resolved, prompt, (0, i), llm.tokenizer))
    return loop


class Begun:
    """A step that goes on to its end whatever is asked of it, as on a GPU; the CPU's begin when they are asked for."""

    def __init__(self, parts: Running) -> None:
        self._parts = parts

    def __next__(self) -> object:
        return next(self._parts)

    def end(self) -> None:
        pass

    def close(self) -> None:
        for _ in self._parts:
            pass


def overlap(runner: Runner, patch: pytest.MonkeyPatch) -> None:
    start = runner.start
    patch.setattr(runner, "overlaps", True)
    patch.setattr(runner, "start", lambda prepared, keep: Begun(start(prepared, keep)))


def test_a_batch_is_two_launches(llm: eventide.LLM) -> None:
    """One reads all the prompts, one draws all that follows; who ends sooner ends a launch."""
    llm._pool.resize(None)
    prompts = [[5, 6, 7], [8] * 20, [9] * 100]
    loop = loop_of(llm, prompts, long(200))
    while loop.busy:
        loop.step()
    assert loop.stats["launches"] == 2 and loop.stats["steps"] == 200
    assert llm._pool.available == llm.limits.pages - 1
    engine = Engine(llm)
    for i, n in enumerate((50, 100, 200)):
        engine.add(Request(i, prompts[i], long(n)))
    list(engine.run())
    assert engine.stats["launches"] == 4 and engine.stats["steps"] == 200


def test_pages_end_a_launch_and_are_given_back(llm: eventide.LLM) -> None:
    """Three sequences in seven pages: as many steps at once as there are pages for, then whoever comes last waits."""
    engine = Engine(llm, cache_tokens=7 * 64)
    for i in range(3):
        engine.add(Request(i, [5 + i] * 60, long(200)))
    ends = [o.id for o in engine.run() if o.finish_reason]
    assert ends == [0, 1, 2] and engine.stats["preemptions"] > 0
    assert engine.stats["launches"] < 15 and engine.free_pages == 7


def test_pages_taken_ahead_do_not_keep_others_out(llm: eventide.LLM) -> None:
    """Two may write 300 tokens each and take all ten pages for it; a third comes, and what they don't need yet is free."""
    engine, order = Engine(llm, cache_tokens=10 * 64), []
    engine._loop._part_s = 1e-3
    for i in (8, 9):
        engine.add(Request(i, [i] * 5, long(300)))
    for count, output in enumerate(engine.run()):
        order += [output.id] if output.finish_reason else []
        if count == 4:
            assert engine.free_pages == 0
            engine.add(Request("third", [7] * 250, long(3)))
    assert order == ["third", 8, 9] and engine.stats["preemptions"] == 0


def test_whoever_comes_ends_the_launch(llm: eventide.LLM) -> None:
    engine = Engine(llm)
    engine._loop._part_s = 0.002
    engine.add(Request("first", [5, 6, 7], long(300)))
    order, added = [], False
    for output in engine.run():
        order.append(output.id)
        if not added and len(order) == 3:
            engine.add(Request("second", [8, 9], long(5)))
            added = True
    # the part under way is still given; then the second is read, and draws beside the first
    assert "second" in order[3:7]
    assert len(order) > 10


def test_a_launch_that_was_asked_for_many_steps_ends_when_few_are_wanted(llm: eventide.LLM) -> None:
    engine = Engine(llm)
    engine.add(Request("a", [5, 6, 7], long(60)))
    alone = llm.generate([5, 6, 7], long(60)).token_ids
    found = [t for o in engine.step() for t in o.token_ids]
    engine._loop._part_s = 1e-6
    found += [t for o in engine.step(50) for t in o.token_ids]
    assert engine._loop._flight is not None and len(found) < 30
    for _ in range(3):
        step = engine.step()
        assert [len(o.token_ids) for o in step] == [1]
        found += step[0].token_ids
    found += [t for o in engine.run() for t in o.token_ids]
    assert found == alone


@pytest.mark.parametrize("stop", [None, "e"])
def test_steps_begun_ahead_change_nothing(llm: eventide.LLM, monkeypatch: pytest.MonkeyPatch, stop: str | None) -> None:
    """A device that begins the next steps before the host has seen the text of the last ones: sequences that a stop string
    ends, or that are cancelled, are still written to; their pages come back when these steps have ended."""
    rng = np.random.default_rng(0)
    requests = [
        Request(i, rng.integers(5, 300, int(rng.integers(1, 90))).tolist(), long(int(rng.integers(1, 120)), stop=stop))
        for i in range(30)
    ]  # fmt: skip

    def served() -> dict[object, tuple[list[int], str, str | None]]:
        engine, found = Engine(llm, token_budget=48, cache_tokens=12 * 64), {}
        for r in requests:
            engine.add(r)
            found[r.id] = ([], "", None)
        for count, output in enumerate(engine.run()):
            tokens, text, reason = found[output.id]
            assert reason is None
            found[output.id] = ([*tokens, *output.token_ids], text + output.text, output.finish_reason)
            if count == 20:
                engine.cancel(29)
        assert engine.free_pages == 12 and engine._loop._flight is None
        return found

    expected = served()
    overlap(llm._runner, monkeypatch)
    found = served()
    assert found.pop(29)[2] == expected.pop(29)[2] == "cancelled"
    assert found == expected
    assert {reason for _, _, reason in found.values()} == ({"stop", "length"} if stop else {"length"})
    for r in requests[:5]:
        alone = llm.generate(r.prompt, r.params)
        assert found[r.id] == (alone.token_ids, alone.text, alone.finish_reason)


def test_the_next_step_is_made_while_one_is_under_way(llm: eventide.LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing happens between two steps, the second begins before anything else is done with the first one's outputs."""
    events: list[str] = []
    runner, take = llm._runner, Generation.take
    overlap(runner, monkeypatch)
    prepare, start = runner.prepare, runner.start
    monkeypatch.setattr(runner, "prepare", lambda step: (events.append("prepare"), prepare(step))[1])
    monkeypatch.setattr(runner, "start", lambda step, keep: (events.append("start"), start(step, keep))[1])
    monkeypatch.setattr(Generation, "take", lambda g, outputs, row: (events.append("take"), take(g, outputs, row))[1])
    llm._pool.resize(None)
    alone = llm.generate([5, 6, 7], long(30)).token_ids
    engine = Engine(llm, token_budget=16)
    engine.add(Request("writer", [5, 6, 7], long(30)))
    found = [t for o in engine.step() for t in o.token_ids]
    engine.add(Request("long", [9] * 250, long(1)))
    events.clear()
    found += [t for o in engine.run() if o.id == "writer" for t in o.token_ids]
    assert found == alone
    steps = events[: events.index("take", 3 * 12) + 1]
    assert steps[:2] == ["prepare", "start"], "the first one, in which the long prompt is let in"
    assert steps[2:] == ["prepare", "start", "take"] * (len(steps[2:]) // 3) and len(steps) > 30


def test_who_comes_is_let_in_while_a_step_is_under_way(llm: eventide.LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newcomer's prompt is part of the step that is made ahead, so none is made in vain."""
    runner = llm._runner
    prepare, start = runner.prepare, runner.start
    prepared: list[Step] = []
    started: list[Step] = []
    alone = [llm.generate([5 + i] * 20, long(30)).token_ids for i in range(4)]
    overlap(runner, monkeypatch)
    monkeypatch.setattr(runner, "prepare", lambda step: (prepared.append(step), prepare(step))[1])
    monkeypatch.setattr(runner, "start", lambda step, keep: (started.append(step), start(step, keep))[1])
    engine = Engine(llm, token_budget=16)
    engine.add(Request("long", [9] * 280, long(1)))
    found: dict[object, list[int]] = {"long": [], **{i: [] for i in range(4)}}
    for i in range(4):
        engine.add(Request(i, [5 + i] * 20, long(30)))
        for output in engine.step(max_steps=2):
            found[output.id] += output.token_ids
    for output in engine.run():
        found[output.id] += output.token_ids
    assert [found[i] for i in range(4)] == alone and len(found["long"]) == 1
    assert len(started) > 20 and len(prepared) == len(started) and all(a is b for a, b in zip(prepared, started))
    assert engine.free_pages == llm.limits.pages - 1


def test_a_step_that_is_made_ahead_has_the_pages_that_it_writes_to(llm: eventide.LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several sequences come to the end of a page beside a prompt that is being read."""
    runner = llm._runner
    prepare = runner.prepare

    def checked(step: Step) -> object:
        slots = step.inputs["slot"]
        assert slots.min() >= llm.limits.page_size and len(np.unique(slots)) == len(slots), "page 0 is nobody's"
        return prepare(step)

    prompts = {i: [5 + i] * (60 + i % 2) for i in range(6)}
    alone = {i: llm.generate(prompt, long(20)).token_ids for i, prompt in prompts.items()}
    overlap(runner, monkeypatch)
    monkeypatch.setattr(runner, "prepare", checked)
    engine = Engine(llm, token_budget=24)
    for i, prompt in prompts.items():
        engine.add(Request(i, prompt, long(20)))
    while sum(g.unread == 1 for g in engine._loop.running) < 6:
        engine.step()
    found = {i: list(g.known[len(prompts[i]) :]) for i, g in enumerate(engine._loop.running)}
    engine.add(Request("long", [9] * 300, long(1)))
    for output in engine.run():
        if output.id in found:
            found[output.id] += output.token_ids
    assert found == alone and engine.free_pages == llm.limits.pages - 1


def test_ctrl_c_ends_the_steps_and_no_more(llm: eventide.LLM) -> None:
    alone = llm.generate([5, 6, 7], long(300)).token_ids
    engine = Engine(llm)
    engine._loop._part_s = float("inf")
    engine.add(Request("a", [5, 6, 7], long(300)))
    found = [t for o in engine.step() for t in o.token_ids]
    timer = threading.Timer(0.01, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        while True:
            for output in engine.run():
                found += output.token_ids
            time.sleep(1)
    found += [t for o in engine.run() for t in o.token_ids]
    assert found == alone and engine.free_pages == llm.limits.pages - 1


def test_requests_from_an_event_loop_while_steps_run(llm: eventide.LLM) -> None:
    """`add` and `cancel` don't wait for the steps that a thread is in."""
    engine = Engine(llm)

    async def serve() -> dict[object, list[int]]:
        found: dict[object, list[int]] = {}

        async def read() -> None:
            async for output in engine:
                found.setdefault(output.id, []).extend(output.token_ids)

        engine.add(Request(0, [5], long(250)))
        engine.add(Request("never", [5] * 4, long(300)))
        reader = asyncio.create_task(read())
        for i in range(1, 12):
            await asyncio.sleep(0.005)
            engine.add(Request(i, [5 + i] * 3, long(20)))
        engine.cancel("never")
        await reader
        return found

    found = asyncio.run(serve())
    assert all(len(found[i]) == (20 if i else 250) for i in range(12)) and len(found["never"]) < 300
    assert found[3] == llm.generate([8] * 3, long(20)).token_ids
    assert engine.free_pages == llm.limits.pages - 1


def test_an_engine_that_is_dropped_gives_its_pages_back(llm: eventide.LLM) -> None:
    llm._pool.resize(None)
    engine = Engine(llm)
    engine.add(Request("a", [5] * 100, long(100)))
    engine.step()
    with pytest.raises(UsageError, match="an Engine takes the model's cache over, and open requests"):
        Engine(llm)
    del engine
    assert llm._pool.free_slots == 8
    Engine(llm)


def test_a_stream_that_holds_everything_is_told(llm: eventide.LLM) -> None:
    engine = Engine(llm, cache_tokens=5 * 64)
    stream = llm.stream([5] * 200, long(100))
    next(stream)
    engine.add(Request("a", [6] * 200, long(20)))
    with pytest.raises(UsageError, match="every slot or page is held by a stream that isn't finished"):
        engine.step()
    list(stream)
    assert sum(len(o.token_ids) for o in engine.run()) == 20
