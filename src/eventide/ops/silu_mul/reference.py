import numpy as np


def tile(t):  # type: ignore[no-untyped-def]
    x = t.x.astype(np.float32)
    gate, up = x[:, 0::2], x[:, 1::2]
    t.y[...] = gate / (1 + np.exp(-gate)) * up
