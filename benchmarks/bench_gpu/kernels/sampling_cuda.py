import ctypes
import random

from eventide.bench.worker.nvrtc import Module

kernel = Module.from_file(__file__, "kernel.cu", ["-DCOUNT=@COUNT_INT@", "-DLIMIT=@LIMIT@"])["sample"]


def run(probs, limit, samples):
    rows, vocab = probs.shape
    seed = ctypes.c_uint64(random.getrandbits(62))
    kernel(grid=(rows,), block=(1024,), arguments=(probs, limit, samples, seed, vocab))
