import numpy as np

from ..attention_decode.reference import prepare


def tile(t):  # type: ignore[no-untyped-def]
    d, pos = t.attrs["head_dim"], int(t.pos[0])
    cos, sin = t.rope[pos, : d // 2], t.rope[pos, d // 2 :]
    norms = [getattr(t, n) if t.has(n) else None for n in ("q_norm", "k_norm")]
    q = prepare(t.q_in.reshape(-1, d), norms[0], t.attrs["eps"], cos, sin)
    q = q.astype(t.q_in.dtype).astype(np.float32)
    t.k_new[0, 0] = prepare(t.k_in[0], norms[1], t.attrs["eps"], cos, sin)
    t.v_new[0, 0] = t.v_in[0]
    k, v = (np.concatenate([old[0], new[0]]).astype(np.float32) for old, new in ((t.k_past, t.k_new), (t.v_past, t.v_new)))
    scores = q @ k.T * np.float32(d**-0.5)
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    t.y[...] = (p / p.sum(axis=1, keepdims=True) @ v).reshape(t.y.shape)
