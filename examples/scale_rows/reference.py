import numpy as np


def tile(t):
    """What one task computes, on views of its regions."""
    t.y[...] = t.x / np.abs(t.x).max(axis=1, keepdims=True)
