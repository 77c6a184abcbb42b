import numpy as np


def tile(t):  # type: ignore[no-untyped-def]
    k = t.w.shape[1]
    first = t.coord["s"] * k if t.x.shape[1] > k else 0  # where the whole input is waited for
    t.part[0] = t.x[:, first : first + k].astype(np.float32) @ t.w.astype(np.float32).T
