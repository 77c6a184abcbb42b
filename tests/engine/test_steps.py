"""Step tables: what a chunk list means, by hand and against each other."""

from __future__ import annotations

import numpy as np

from eventide.engine.steps import Chunk, Sampling, balanced, decode_steps, make_step
from eventide.models.decoder import Limits

LIMITS = Limits(max_seqs=4, max_seq_len=64, page_size=8, max_rows=8)


def test_prompt() -> None:
    step = make_step(LIMITS, [Chunk(2, 5, 20, sampling=Sampling(seed=9))], tile_queries=16)
    assert step.symbols == {"num_tokens": 20, "num_tiles": 2, "num_rows": 1, "num_samples": 1}
    assert step.inputs["tile_indptr"].tolist() == [0, 16, 20] and step.inputs["tile_seq"].tolist() == [2, 2]
    assert step.inputs["pos"].tolist() == list(range(5, 25))
    # sequence 2 owns slots 128 to 191
    assert step.inputs["slot"].tolist() == list(range(133, 153))
    assert step.inputs["logit_rows"].tolist() == [19] and step.inputs["row_pos"].tolist() == [24]
    assert step.inputs["seed"].tolist() == [9]


def test_who_samples_comes_first() -> None:
    chunks = [Chunk(0, 0, 3, rows="none", sample=False), Chunk(1, 7, 1), Chunk(3, 2, 4, rows="all", sample=False), Chunk(2, 9, 1)]
    step = make_step(LIMITS, chunks, tile_queries=16)
    assert step.inputs["seq"].tolist() == [1, 2, 0, 0, 0, 3, 3, 3, 3]
    assert step.inputs["logit_rows"].tolist() == [0, 1, 5, 6, 7, 8]
    assert step.symbols["num_rows"] == 6 and step.symbols["num_samples"] == 2
    assert step.inputs["row_seq"].tolist() == [1, 2] and step.inputs["row_pos"].tolist() == [7, 9]


def test_decode_steps_are_make_steps() -> None:
    rng = np.random.default_rng(0)
    table = rng.permutation(LIMITS.pages).astype(np.int32).reshape(LIMITS.max_seqs, -1)
    chunks = [Chunk(2, 6, 1, sampling=Sampling(0.5, 3, 0.9, 11, 2)), Chunk(0, 30, 1), Chunk(3, 0, 1)]
    for i, step in enumerate(decode_steps(LIMITS, chunks, 12, table)):
        expected = make_step(LIMITS, [Chunk(c.seq, c.start + i, 1, sampling=c.sampling) for c in chunks], 16, table)
        assert step.symbols == expected.symbols and step.inputs.keys() == expected.inputs.keys()
        for name, array in expected.inputs.items():
            assert np.array_equal(step.inputs[name], array) and step.inputs[name].dtype == array.dtype, name
            assert step.inputs[name].flags.c_contiguous


def test_each_worker_has_as_much_to_read() -> None:
    lengths = [16, 64, 128, 200, 320, 448, 640, 900]
    order = balanced(lengths, 2)
    assert order == [7, 4, 3, 0, 6, 5, 2, 1] and sum(lengths[i] for i in order[:4]) == 1436
    rng = np.random.default_rng(0)
    for workers in (1, 2, 3, 4, 8):
        drawn = rng.integers(1, 4096, 8 * workers).tolist()
        order = balanced(drawn, workers)
        sums = [sum(drawn[i] for i in order[8 * w : 8 * w + 8]) for w in range(workers)]
        assert sorted(order) == list(range(8 * workers)) and max(sums) < 1.3 * sum(drawn) / workers
