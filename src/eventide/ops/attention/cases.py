import numpy as np

from ..case import Case, ints, normal


def _make(chunks, heads, kv_heads, d, page, *, tile=16, scale=1.0):  # type: ignore[no-untyped-def]
    """`chunks`: (first position, number of tokens) of each sequence."""

    def make(rng, dtype):  # type: ignore[no-untyped-def]
        pages = -(-max(start + count for start, count in chunks) // page)
        slots = len(chunks) * pages * page
        pos = np.concatenate([np.arange(start, start + count) for start, count in chunks])
        indptr, seqs, first = [0], [], 0
        for s, (_, count) in enumerate(chunks):
            for t in range(0, count, tile):
                indptr.append(first + min(t + tile, count))
                seqs.append(s)
            first += count
        return {
            "q": normal(rng, dtype, len(pos), heads * d, scale=scale),
            "k_cache": normal(rng, dtype, kv_heads, slots, d, scale=scale),
            "v_cache": normal(rng, dtype, kv_heads, slots, d),
            "pos": ints(pos),
            "tile_indptr": ints(indptr),
            "tile_seq": ints(seqs),
            "block_table": ints(rng.permutation(len(chunks) * pages).reshape(len(chunks), pages)),
        }

    return make


TOLERANCE = {"float32": 5e-6, "bfloat16": 1e-2}


def _case(name, chunks, heads, kv_heads, d, page, **options):  # type: ignore[no-untyped-def]
    attrs = {"num_heads": heads, "num_kv_heads": kv_heads, "head_dim": d, "page_size": page}
    return Case(name, _make(chunks, heads, kv_heads, d, page, **options), attrs, tolerance=TOLERANCE)


CASES = [
    _case("first token", [(0, 1)], 2, 2, 64, 64),
    _case("decode", [(300, 1), (63, 1), (64, 1), (0, 1)], 4, 2, 128, 64),
    _case("prefill", [(0, 150)], 4, 2, 64, 64),
    _case("chunk after a prefix", [(70, 33), (5, 2)], 6, 2, 32, 64),
    _case("small pages", [(30, 20), (0, 9)], 4, 1, 16, 8),
    _case("odd head size", [(100, 3)], 4, 4, 20, 16),
    _case("large scores", [(90, 40)], 2, 1, 64, 64, scale=6.0),
    _case("many heads a group", [(128, 17)], 16, 1, 64, 128),
]
