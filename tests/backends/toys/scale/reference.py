import numpy as np


def tile(t):  # type: ignore[no-untyped-def]
    factor = np.float32(t.attrs["factor"])
    for _ in range(2 if t.attrs["twice"] else 1):
        x = t.y if _ else t.x
        t.y[...] = x * factor if t.attrs["mode"] == "times" else x + factor
