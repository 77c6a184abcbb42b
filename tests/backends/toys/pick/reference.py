import numpy as np


def tile(t):  # type: ignore[no-untyped-def]
    t.y[...] = t.x * np.float32(t.coord["e"] + 1)
