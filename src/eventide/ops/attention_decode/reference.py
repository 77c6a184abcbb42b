import numpy as np


def prepare(x, norm, eps, cos, sin):  # type: ignore[no-untyped-def]
    """Normalises (if asked) and rotates head vectors [..., head_dim]."""
    x = x.astype(np.float32)
    if norm is not None:
        x = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(eps)) * norm.astype(np.float32)
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def own_token(t):  # type: ignore[no-untyped-def]
    """The token's queries and key, normalised and rotated; queries rounded as they are stored."""
    d, pos = t.attrs["head_dim"], int(t.pos[0])
    cos, sin = t.rope[pos, : d // 2], t.rope[pos, d // 2 :]
    norms = [getattr(t, n) if t.has(n) else None for n in ("q_norm", "k_norm")]
    q = prepare(t.q_in.reshape(-1, d), norms[0], t.attrs["eps"], cos, sin)
    return q.astype(t.q_in.dtype).astype(np.float32), prepare(t.k_in[0], norms[1], t.attrs["eps"], cos, sin)


def tile(t):  # type: ignore[no-untyped-def]
    d = t.attrs["head_dim"]
    q, key = own_token(t)
    k, v = t.k_past[0].astype(np.float32), t.v_past[0].astype(np.float32)
    if t.k_new.shape[1]:
        t.k_new[0, 0] = key
        t.v_new[0, 0] = t.v_in[0]
        k = np.concatenate([k, t.k_new[0].astype(np.float32)])
        v = np.concatenate([v, t.v_new[0].astype(np.float32)])
    scores = np.concatenate([np.full((len(q), 1), -1e30, np.float32), q @ k.T * np.float32(d**-0.5)], axis=1)
    top = scores.max(axis=1, keepdims=True)
    p = np.exp(scores - top)[:, 1:] if len(k) else np.zeros((len(q), 0), np.float32)
    t.part[0, :, 0] = p @ v
    t.stats[0, :, 0, 0], t.stats[0, :, 0, 1] = top[:, 0], p.sum(axis=1)
