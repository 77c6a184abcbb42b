import numpy as np


def tile(t):  # type: ignore[no-untyped-def]
    x = t.x.astype(np.float32)
    if t.has("norm_weight"):
        x = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(t.attrs["eps"]))
        x = (x * t.norm_weight.astype(np.float32)).astype(t.x.dtype).astype(np.float32)
    y = x @ t.w.astype(np.float32).T
    if t.has("squares"):
        square = np.sum(t.squares, axis=0, dtype=np.float32)[:, None]
        y = y / np.sqrt(square / np.float32(t.x.shape[1]) + np.float32(t.attrs["eps"]))
    if t.has("bias"):
        y = y + t.bias.astype(np.float32)
    if t.attrs["activation"] == "silu_mul":
        gate, up = y[:, 0::2], y[:, 1::2]
        y = gate / (1 + np.exp(-gate)) * up
    if t.has("residual"):
        y = y + t.residual.astype(np.float32)
    t.y[...] = y
