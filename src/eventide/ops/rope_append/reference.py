import numpy as np


def head_norm(x, w, eps):  # type: ignore[no-untyped-def]
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(eps)) * w.astype(np.float32)


def rotate(x, cos, sin):  # type: ignore[no-untyped-def]
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def tile(t):  # type: ignore[no-untyped-def]
    d = t.attrs["head_dim"]
    rope = t.rope[t.pos].astype(np.float32)[:, None, :]
    cos, sin = rope[..., : d // 2], rope[..., d // 2 :]
    q = t.q_in.astype(np.float32).reshape(len(t.pos), -1, d)
    k = t.k_in.astype(np.float32)[:, None, :]
    if t.has("q_norm"):
        q, k = head_norm(q, t.q_norm, t.attrs["eps"]), head_norm(k, t.k_norm, t.attrs["eps"])
    t.q[...] = rotate(q, cos, sin).reshape(t.q.shape)
    t.k_cache[0] = rotate(k, cos, sin)[:, 0]
    t.v_cache[0] = t.v_in
