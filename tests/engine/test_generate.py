"""Prompts in every form, batches, stops, seeds, streams: the same answers however they are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import eventide
from eventide import SamplingParams
from eventide.errors import PromptError, UsageError

GREEDY = SamplingParams(max_new_tokens=8, temperature=0, ignore_eos=True)
PROMPTS = ["The quick brown fox", "One", "Seven and eight are how many? " * 3]


def test_one_prompt_or_several(llm: eventide.LLM) -> None:
    one = llm.generate(PROMPTS[0], GREEDY)
    assert len(one.token_ids) == 8 and one.finish_reason == "length" and one.logprobs is None
    assert one.prompt_token_ids == llm.tokenizer.encode(PROMPTS[0])
    assert one.text == llm.tokenizer.decode(one.token_ids)
    several = llm.generate(PROMPTS, GREEDY)
    assert [c.token_ids for c in several] == [llm.generate(p, GREEDY).token_ids for p in PROMPTS]
    ids = [c.prompt_token_ids for c in several]
    assert llm.generate(ids, GREEDY) == several
    assert llm.generate(ids[1], GREEDY) == several[1]
    assert llm.generate(np.array(ids[1]), GREEDY) == several[1]
    assert llm.generate([], GREEDY) == []


def test_equal_lengths(llm: eventide.LLM) -> None:
    rng = np.random.default_rng(1)
    prompts = rng.integers(5, 300, (5, 7)).tolist()
    alone = [llm.generate(p, GREEDY).token_ids for p in prompts]
    assert [c.token_ids for c in llm.generate(prompts, GREEDY)] == alone
    assert len({tuple(ids) for ids in alone}) > 1


@pytest.mark.untraced  # repeats itself: counting lines would take longer than the test
def test_long_prompts_are_read_in_pieces(checkpoint: Path) -> None:
    prompt = np.random.default_rng(2).integers(5, 300, 150).tolist()
    with eventide.LLM(checkpoint, device="interp") as llm:
        whole = llm.generate(prompt, GREEDY)
        # steps of at most 64 tokens: three for this prompt, the second prompt's share in the third
        object.__setattr__(llm.limits, "max_tokens", 64)
        assert llm.generate([prompt, prompt[:5]], GREEDY)[0] == whole


@pytest.mark.untraced  # repeats itself: counting lines would take longer than the test
def test_more_prompts_than_slots(checkpoint: Path) -> None:
    prompts = [[i + 5, i + 6] for i in range(7)]
    with eventide.LLM(checkpoint, device="interp", max_seqs=2) as llm:
        together = llm.generate(prompts, GREEDY)
        assert together == [llm.generate(p, GREEDY) for p in prompts]


def test_each_its_own_parameters(llm: eventide.LLM) -> None:
    short = SamplingParams(max_new_tokens=2, temperature=0, ignore_eos=True)
    found = llm.generate(PROMPTS[:2], [short, GREEDY])
    assert [len(c.token_ids) for c in found] == [2, 8]
    with pytest.raises(UsageError, match="one for each of 2 prompts, got 1"):
        llm.generate(PROMPTS[:2], [short])


def test_end_of_sequence(llm: eventide.LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = llm.generate(PROMPTS[0], GREEDY).token_ids
    first = tokens.index(tokens[3])
    monkeypatch.setattr(llm, "_generation", type(llm._generation)(eos_token_ids=(tokens[3],)))
    stopped = llm.generate(PROMPTS[0], SamplingParams(max_new_tokens=8))
    assert stopped.token_ids == tokens[: first + 1] and stopped.finish_reason == "stop"
    assert len(llm.generate(PROMPTS[0], GREEDY).token_ids) == 8


def test_stop_strings(llm: eventide.LLM) -> None:
    whole = llm.generate(PROMPTS[0], GREEDY)
    stop = whole.text[3:5]
    cut = llm.generate(PROMPTS[0], SamplingParams(max_new_tokens=8, temperature=0, ignore_eos=True, stop=[stop, "no such"]))
    assert cut.finish_reason == "stop" and cut.text == whole.text[: whole.text.index(stop)]
    assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]


def test_context_ends(llm: eventide.LLM) -> None:
    prompt = np.random.default_rng(3).integers(5, 300, 250).tolist()
    found = llm.generate(prompt, SamplingParams(max_new_tokens=100, temperature=0, ignore_eos=True))
    assert len(found.token_ids) == llm.max_seq_len - 250 == 6 and found.finish_reason == "length"


def test_seeds(llm: eventide.LLM) -> None:
    def draw(seed: int | None, prompts: list[str]) -> list[list[int]]:
        params = SamplingParams(max_new_tokens=12, temperature=2.0, seed=seed, ignore_eos=True)
        return [c.token_ids for c in llm.generate(prompts, params)]

    assert draw(1, PROMPTS) == draw(1, PROMPTS) == [draw(1, [p])[0] for p in PROMPTS]
    assert draw(1, PROMPTS) != draw(2, PROMPTS)
    assert draw(None, PROMPTS) != draw(None, PROMPTS)


def test_top_k_and_top_p(llm: eventide.LLM) -> None:
    greedy = llm.generate(PROMPTS[0], GREEDY).token_ids
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}):
        params = SamplingParams(max_new_tokens=8, temperature=3.0, ignore_eos=True, **narrow)  # type: ignore[arg-type]
        assert llm.generate(PROMPTS[0], params).token_ids == greedy


def test_logprobs(llm: eventide.LLM) -> None:
    params = SamplingParams(max_new_tokens=4, temperature=0, ignore_eos=True, logprobs=3)
    found = llm.generate(PROMPTS[0], params)
    assert found.logprobs is not None and len(found.logprobs) == 4
    rows = llm.logits(found.prompt_token_ids + found.token_ids)[len(found.prompt_token_ids) - 1 :]
    for entry, row, token in zip(found.logprobs, rows, found.token_ids):
        expected = row - np.log(np.sum(np.exp(row.astype(np.float64))))
        assert entry.token_id == token and entry.logprob == pytest.approx(expected[token], abs=1e-4)
        assert list(entry.top) == np.argsort(-row)[:3].tolist()
        assert list(entry.top.values()) == pytest.approx(expected[list(entry.top)], abs=1e-4)
    alone = llm.generate(PROMPTS[0], SamplingParams(max_new_tokens=2, temperature=0, logprobs=0))
    assert alone.logprobs is not None and alone.logprobs[0].top == {}


def test_stream(llm: eventide.LLM) -> None:
    whole = llm.generate(PROMPTS, GREEDY)
    pieces = list(llm.stream(PROMPTS, GREEDY))
    for index, completion in enumerate(whole):
        own = [piece for piece in pieces if piece.index == index]
        assert [token for piece in own for token in piece.token_ids] == completion.token_ids
        assert "".join(piece.text for piece in own) == completion.text
        assert [piece.finish_reason for piece in own] == [None] * (len(own) - 1) + ["length"]


def test_a_closed_stream_frees_its_slot(llm: eventide.LLM) -> None:
    free = llm._pool.free_slots, llm._pool.available
    stream = llm.stream(PROMPTS[0], SamplingParams(max_new_tokens=60, ignore_eos=True))
    next(stream)
    assert llm._pool.free_slots == free[0] - 1
    # another call while it is open
    assert len(llm.generate(PROMPTS[1], GREEDY).token_ids) == 8
    stream.close()  # type: ignore[attr-defined]
    assert (llm._pool.free_slots, llm._pool.available) == free


def test_slots_held_by_streams(checkpoint: Path) -> None:
    with eventide.LLM(checkpoint, device="interp", max_seqs=1) as llm:
        stream = llm.stream(PROMPTS[0], GREEDY)
        next(stream)
        with pytest.raises(UsageError, match=r"held by a stream that isn't finished"):
            llm.generate(PROMPTS[0], GREEDY)
        with pytest.raises(UsageError, match="no slot is free"):
            llm.logits([5, 6])
        list(stream)
        assert len(llm.logits([5, 6])) == 2


def test_chat(llm: eventide.LLM) -> None:
    messages = [{"role": "user", "content": "How many are seven and eight?"}]
    found = llm.chat(messages, GREEDY)
    assert found.prompt_token_ids == llm.tokenizer.encode_chat(messages)
    assert llm.chat([messages, messages], GREEDY) == [found, found]
    assert llm.chat(messages, GREEDY, enable_thinking=False) != found
    with pytest.raises(PromptError, match="at least one message"):
        llm.chat([], GREEDY)


def test_logits_agree_with_generation(llm: eventide.LLM) -> None:
    found = llm.generate(PROMPTS[2], GREEDY)
    logits = llm.logits(found.prompt_token_ids + found.token_ids)
    assert logits.dtype == np.float32 and logits.shape == (len(found.prompt_token_ids) + 8, llm.config.vocab_size)
    greedy = logits[len(found.prompt_token_ids) - 1 : -1].argmax(axis=1)
    assert greedy.tolist() == found.token_ids


def test_plan_prints(llm: eventide.LLM) -> None:
    text = str(llm.plan)
    assert "plan 'Qwen3ForCausalLM'" in text and "layers.1.gate_up = linear[" in text and "schedule static" in text
    assert repr(llm).startswith("LLM(") and "max_seq_len=256" in repr(llm)


def test_static_and_per_op_agree_bit_for_bit(llm: eventide.LLM, checkpoint: Path) -> None:
    ids = np.random.default_rng(4).integers(5, 300, 70).tolist()
    with eventide.LLM(checkpoint, device=llm.device, schedule="per_op", num_threads=2) as other:
        assert "per_op" in str(other.plan)
        assert np.array_equal(llm.logits(ids), other.logits(ids))
        assert llm.generate(ids, GREEDY) == other.generate(ids, GREEDY)
