import numpy as np

MASK32 = np.uint64(0xFFFFFFFF)


def philox(counter, key):  # type: ignore[no-untyped-def]
    """Philox4x32-10 (Salmon et al., 2011): counter [4, n] and key [2] of uint32 held as uint64 -> [4, n]."""
    c = [np.asarray(x, np.uint64) for x in counter]
    k0, k1 = np.uint64(key[0]), np.uint64(key[1])
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ k0, p1 & MASK32, (p0 >> np.uint64(32)) ^ c[3] ^ k1, p0 & MASK32]
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & MASK32, (k1 + np.uint64(0xBB67AE85)) & MASK32
    return c


def gumbel(seed, position, vocab):  # type: ignore[no-untyped-def]
    """One Gumbel(0, 1) number for every token, float32 [vocab]; u = (23 random bits + 1/2) / 2²³ is exact, in (0, 1)."""
    token = np.arange(vocab, dtype=np.uint64)
    zero = np.zeros_like(token)
    key = (int(seed) & 0xFFFFFFFF, (int(seed) >> 32) & 0xFFFFFFFF)
    bits = philox((token, zero + np.uint64(position), zero, zero), key)[0] >> np.uint64(9)
    u = (bits.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23)
    return -np.log(-np.log(u))


def choose(logits, temperature, top_k, top_p, seed, position):  # type: ignore[no-untyped-def]
    if temperature == 0:
        return int(np.argmax(logits))
    scaled = logits / np.float32(temperature)
    order = np.argsort(-scaled, kind="stable")
    if 0 < top_k < len(order):
        order = order[:top_k]
    if top_p < 1:
        p = np.exp((scaled[order] - scaled[order[0]]).astype(np.float64))
        reached = np.cumsum(p) >= np.float64(top_p) * p.sum()
        order = order[: int(np.argmax(reached)) + 1]
    noisy = scaled[order] + gumbel(seed, position, len(logits))[order]
    best = noisy.max()
    return int(order[noisy == best].min())


def tile(t):  # type: ignore[no-untyped-def]
    logits = t.logits[0].astype(np.float32)
    position = int(t.row_pos[0]) + 1
    top = logits.max()
    with np.errstate(invalid="ignore"):
        norm = top + np.log(np.sum(np.exp((logits - top).astype(np.float64)))).astype(np.float32)
    if not np.isfinite(norm):  # no distribution
        t.tokens[0, 0], t.next_token[0], t.logprob[0] = 0, -1, np.nan
        t.top_ids[...], t.top_logprobs[...] = 0, 0
        return
    logprobs = logits - norm
    token = choose(logits, t.temperature[0], int(t.top_k[0]), t.top_p[0], int(t.seed[0]), position)
    t.tokens[0, 0] = t.next_token[0] = token
    t.logprob[0] = logprobs[token]
    n = min(int(t.num_logprobs[0]), len(logits))
    best = np.argsort(-logits, kind="stable")[:n]
    t.top_ids[...], t.top_logprobs[...] = 0, 0
    t.top_ids[0, :n], t.top_logprobs[0, :n] = best, logprobs[best]
