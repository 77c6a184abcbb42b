import numpy as np


def tile(t):  # type: ignore[no-untyped-def]
    t.y[...] = t.x.astype(np.float32) @ t.w.astype(np.float32).T + t.residual.astype(np.float32)
    y = t.y.astype(np.float32)
    t.h[...] = y * t.norm_weight.astype(np.float32)
    t.squares[0] = np.sum(y * y, axis=-1)
