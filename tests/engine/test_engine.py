"""Requests that come and go: the same tokens as alone, whatever happens around them, and no page lost."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator

import numpy as np
import pytest

import eventide
from eventide import Engine, Request, SamplingParams
from eventide.engine.cache import PageCache, digests
from eventide.engine.runner import Running
from eventide.engine.steps import Step
from eventide.errors import OutOfMemoryError, PromptError, SamplingError, UsageError


@pytest.fixture(scope="module")
def llm() -> Iterator[eventide.LLM]:
    with eventide.LLM("eventide-tiny", device="cpu", dtype="float32", num_threads=1, max_seq_len=320, max_seqs=8) as model:
        yield model


def requests(n: int, seed: int, vocab: int) -> list[Request]:
    """Some begin alike, some are long, some draw at random."""
    rng = np.random.default_rng(seed)
    common = rng.integers(0, vocab, 70).tolist()
    found = []
    for i in range(n):
        begin = common if rng.random() < 0.4 else common[: int(rng.integers(0, 71))]
        prompt = [*begin, *rng.integers(0, vocab, int(rng.integers(1, 20))).tolist()]
        draws = rng.random() < 0.5
        length, logprobs = int(np.exp(rng.uniform(0, np.log(200)))), 2 if i % 5 == 0 else None
        params = SamplingParams(length, temperature=0.9 if draws else 0.0, seed=i, ignore_eos=True, logprobs=logprobs)
        found.append(Request(i, prompt, params, priority=int(rng.integers(0, 3))))
    return found


def gather(outputs: list[eventide.Output]) -> dict[object, tuple[list[int], str | None]]:
    found: dict[object, tuple[list[int], str | None]] = {}
    for o in outputs:
        tokens, reason = found.get(o.id, ([], None))
        assert reason is None, "nothing comes after a finish reason"
        found[o.id] = ([*tokens, *o.token_ids], o.finish_reason)
    return found


def alone(llm: eventide.LLM, request: Request) -> list[int]:
    """Its tokens with nobody else about, and nothing found in the cache."""
    llm._pool.resize(None)
    return llm.generate(request.prompt, request.params).token_ids


@pytest.fixture(scope="module")
def forty(llm: eventide.LLM) -> list[tuple[Request, list[int]]]:
    """Requests, each with its tokens alone."""
    return [(r, alone(llm, r)) for r in requests(40, 1, llm.config.vocab_size)]


@pytest.mark.untraced  # repeats itself: counting lines would take longer than the test
@pytest.mark.parametrize("budget, cache", [(512, None), (16, 384), (7, 320)])
def test_tokens_are_those_of_a_request_alone(
    llm: eventide.LLM, forty: list[tuple[Request, list[int]]], budget: int, cache: int | None
) -> None:
    engine = Engine(llm, token_budget=budget, cache_tokens=cache)
    pages = engine.free_pages
    waiting, outputs, rng = [r for r, _ in forty], [], np.random.default_rng(2)
    while waiting or engine.num_requests:
        for _ in range(min(len(waiting), int(rng.integers(0, 4)))):
            engine.add(waiting.pop())
        outputs += engine.step(int(rng.integers(1, 5)))
    assert engine.free_pages == pages
    found = gather(outputs)
    for r, tokens in forty:
        assert found[r.id] == (tokens, "length"), r
    assert engine.stats["tokens_from_cache"] > 0
    if cache is not None:
        assert engine.stats["preemptions"] > 0


@pytest.mark.untraced  # repeats itself: counting lines would take longer than the test
def test_cancellations_leave_the_others_alone_and_lose_no_page(llm: eventide.LLM) -> None:
    todo = requests(120, 3, llm.config.vocab_size)
    engine = Engine(llm, token_budget=24, cache_tokens=320)
    pages, rng = engine.free_pages, np.random.default_rng(4)
    cancelled, outputs, waiting = set(), [], list(todo)
    while waiting or engine.num_requests:
        for _ in range(min(len(waiting), 3)):
            engine.add(waiting.pop())
        alive = [r.id for r in todo if r.id in engine._live]
        if alive and rng.random() < 0.3:
            victim = alive[int(rng.integers(len(alive)))]
            engine.cancel(victim)
            cancelled.add(victim)
        outputs += engine.step()
    outputs += engine.step()
    assert engine.free_pages == pages
    found = gather(outputs)
    assert {i for i, (_, reason) in found.items() if reason == "cancelled"} == cancelled and len(cancelled) > 5
    for r in todo:
        tokens, reason = found[r.id]
        expected = alone(llm, r)
        assert tokens == expected[: len(tokens)] and (reason == "cancelled" or tokens == expected)


def test_higher_priorities_and_earlier_requests_go_first(llm: eventide.LLM) -> None:
    engine = Engine(llm, token_budget=1)
    params = SamplingParams(max_new_tokens=2, temperature=0, ignore_eos=True)
    for name, priority in (("late", 0), ("later", 0), ("first", 5)):
        engine.add(Request(name, [5, 6, 7], params, priority))
    ends = [o.id for o in engine.run() if o.finish_reason]
    assert ends == ["first", "late", "later"]


def test_who_generates_is_never_kept_waiting_by_prompts(llm: eventide.LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two tokens of a sequence lies one step of at most `token_budget` tokens, whatever waits."""
    engine, sizes = Engine(llm, token_budget=8), []
    start = llm._runner.start

    def noting(step: Step, keep: Collection[str]) -> Running:
        sizes.append(step.symbols["num_tokens"])
        return start(step, keep)

    monkeypatch.setattr(llm._runner, "start", noting)
    engine.add(Request("writer", [5], SamplingParams(max_new_tokens=20, temperature=0, ignore_eos=True)))
    engine.step()
    for i in range(4):
        engine.add(Request(i, list(range(1, 60)), SamplingParams(max_new_tokens=1), priority=i))
    for _ in range(19):
        assert "writer" in {o.id for o in engine.step()}
    assert sizes == [8] * 19
    list(engine.run())


def test_text_and_an_event_loop() -> None:
    async def read(engine: Engine) -> str:
        return "".join([output.text async for output in engine])

    with eventide.LLM("eventide-tiny", device="cpu", num_threads=1) as llm:
        engine = Engine(llm)
        engine.add(Request("story", "Once upon a time", SamplingParams(max_new_tokens=24, temperature=0)))
        assert asyncio.run(read(engine)) == llm.generate("Once upon a time", SamplingParams(max_new_tokens=24, temperature=0)).text


def test_bad_requests_concern_nobody_else(llm: eventide.LLM) -> None:
    engine = Engine(llm, cache_tokens=64)
    engine.add(Request("good", [5, 6, 7], SamplingParams(max_new_tokens=3, temperature=0, ignore_eos=True)))
    with pytest.raises(UsageError, match="a request with the id 'good' is being served"):
        engine.add(Request("good", [5]))
    with pytest.raises(PromptError, match="the prompt is empty"):
        engine.add(Request("empty", []))
    with pytest.raises(PromptError, match="the context holds 320"):
        engine.add(Request("long", [5] * 320))
    with pytest.raises(OutOfMemoryError, match="may come to 90 tokens, and the whole cache holds 64"):
        engine.add(Request("large", [5] * 60, SamplingParams(max_new_tokens=30)))
    with pytest.raises(UsageError, match="several prompts"):
        engine.add(Request("two", [[5], [6]]))  # type: ignore[list-item]
    with pytest.raises(UsageError, match=r"add takes an eventide\.Request, .* got 'a prompt'"):
        engine.add("a prompt")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="id must be hashable, such as a number or a string, got \\['a'\\]"):
        engine.add(Request(["a"], [5]))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"priority must be an integer .* got 'high'"):
        engine.add(Request("urgent", [5], priority="high"))  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="token id 999999 is outside the vocabulary"):
        engine.add(Request("unknown", [999999]))
    with pytest.raises(SamplingError, match="max_new_tokens must be an integer of at least 1, got 0"):
        engine.add(Request("none", [5], SamplingParams(max_new_tokens=0)))
    with pytest.raises(UsageError, match="max_steps must be an integer of at least 1, got 0"):
        engine.step(0)
    with pytest.raises(UsageError, match="no request with the id 'gone'"):
        engine.cancel("gone")
    with pytest.raises(UsageError, match="token_budget must be an integer of at least 1, got 0"):
        Engine(llm, token_budget=0)
    assert gather(list(engine.run()))["good"][1] == "length"
    with pytest.raises(UsageError, match="no request with the id 'good'"):
        engine.cancel("good")


def test_pages_are_counted_and_found_again() -> None:
    cache = PageCache(4, 2)
    a = cache.take(3)
    assert a == [0, 1, 2] and cache.take(2) is None and cache.available == 1
    first, second = digests([5, 6, 7, 8, 9], 2)
    cache.publish(first, a[0])
    cache.publish(second, a[1])
    assert cache.find([first, digests([1, 2], 2)[0]]) == [0]
    cache.release(a)
    assert cache.available == 3, "page 0 has another owner"
    cache.release([0])
    assert cache.available == 4 and cache.find([first, second]) == [0, 1]
    cache.release([0, 1])
    assert sorted(cache.take(4) or []) == [0, 1, 2, 3] and cache.find([first]) == [], "room was wanted"


def test_a_digest_depends_on_all_tokens_before() -> None:
    assert digests([1, 2, 3, 4], 2)[1] != digests([9, 2, 3, 4], 2)[1]
    assert digests([1, 2, 3, 4, 5], 2) == digests([1, 2, 3, 4], 2)
    assert digests([1, 2, 3, 4], 2, digests([1, 2], 2)) == digests([1, 2, 3, 4], 2)
