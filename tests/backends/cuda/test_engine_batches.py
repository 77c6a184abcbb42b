"""`Engine` on a GPU: batches, prompts beside decoding, shared beginnings, steps that begin before the last ones' text is made.

In bfloat16 a token may differ from the one drawn alone where the two best logits are nearly equal: every token must be within
rounding of the best one, by the logits of a pass over the whole sequence. The same composition gives the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import eventide
from eventide import Engine, Request, SamplingParams
from eventide.engine.cuda import CudaRunner
from tests.backends.cuda.gpu import need_gpu
from tests.backends.cuda.test_engine import SHAPE
from tests.checkpoints import make_checkpoint

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", params=[8, 20], ids=["8 sequences", "20 sequences"])
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[eventide.LLM]:
    need_gpu()
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("models") / "gpu", SHAPE, tokenizer=True)
    with eventide.LLM(checkpoint, device="cuda", max_seqs=request.param) as loaded:
        yield loaded


def greedy(n: int) -> SamplingParams:
    return SamplingParams(max_new_tokens=n, temperature=0, ignore_eos=True, logprobs=1)


def served(engine: Engine, requests: list[Request], late: list[Request]) -> dict[object, tuple[list[int], list[float]]]:
    """`late` ones come one by one while others generate."""
    found: dict[object, tuple[list[int], list[float]]] = {r.id: ([], []) for r in (*requests, *late)}
    for r in requests:
        engine.add(r)
    coming = list(late)
    for count, output in enumerate(engine.run()):
        if coming and count % 3 == 2:
            engine.add(coming.pop(0))
        found[output.id][0].extend(output.token_ids)
        found[output.id][1].extend(entry.logprob for entry in output.logprobs or ())
    assert not coming
    return found


def near_best(llm: eventide.LLM, prompt: list[int], tokens: list[int]) -> None:
    logits = llm.logits([*prompt, *tokens])[len(prompt) - 1 : -1]
    for row, token in zip(logits, tokens, strict=True):
        assert row.max() - row[token] < 0.05 * row.std() + 0.05


def test_batches_and_prompts_beside_them(llm: eventide.LLM) -> None:
    rng = np.random.default_rng(1)
    requests = [
        Request(i, rng.integers(3, 500, int(n)).tolist(), greedy(int(m)))
        for i, (n, m) in enumerate(zip(rng.integers(1, 150, 20), rng.integers(1, 60, 20)))
    ]
    engine = Engine(llm, token_budget=40)
    pages = engine.free_pages
    found = served(engine, requests[:6], requests[6:])
    for r in requests:
        assert len(found[r.id][0]) == r.params.max_new_tokens  # type: ignore[union-attr]
        near_best(llm, list(r.prompt), found[r.id][0])  # type: ignore[arg-type]
    assert engine.free_pages == pages


def test_a_batch_decodes_in_one_launch_and_repeats_its_bits(llm: eventide.LLM) -> None:
    assert isinstance(llm._runner, CudaRunner)
    most = max(llm._runner._decode)
    assert list(llm._runner._decode) in ([1, 4, 8], [1, 4, 16, 20])
    rng = np.random.default_rng(2)
    requests = [Request(i, rng.integers(3, 500, 20 + 7 * i).tolist(), greedy(50)) for i in range(most)]
    runs = []
    for _ in range(2):
        engine = Engine(llm)
        runs.append(served(engine, requests, []))
        assert engine.stats["launches"] == 2
    assert runs[0] == runs[1]
    for r in requests:
        near_best(llm, list(r.prompt), runs[0][r.id][0])  # type: ignore[arg-type]


def test_beginnings_that_are_shared(llm: eventide.LLM) -> None:
    """Both read the pages of the first one's prompt, and append to their own."""
    rng = np.random.default_rng(3)
    common = rng.integers(3, 500, 140).tolist()
    first = Request("first", [*common, 7], greedy(4))
    others = [Request(i, [*common, 8 + i, 9], greedy(80)) for i in range(3)]
    engine = Engine(llm)
    served(engine, [first], [])
    found = served(engine, others, [])
    assert engine.stats["tokens_from_cache"] == 3 * 128
    for r in others:
        near_best(llm, list(r.prompt), found[r.id][0])  # type: ignore[arg-type]


def test_a_cache_too_small(llm: eventide.LLM) -> None:
    requests = [Request(i, [5 + i] * 60, greedy(180)) for i in range(4)]
    engine = Engine(llm, cache_tokens=8 * 64)
    found = served(engine, requests, [])
    assert engine.stats["preemptions"] > 0 and engine.free_pages == 8
    for r in requests:
        near_best(llm, list(r.prompt), found[r.id][0])  # type: ignore[arg-type]
