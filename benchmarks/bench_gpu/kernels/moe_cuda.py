import torch

from eventide.bench.worker.nvrtc import Module

module = Module.from_file(__file__, "kernel.cu")
route, gather, up, down, combine = (module[name] for name in ("route", "gather", "up", "down", "combine"))
HIDDEN, INNER, TOP = 7168, 2048, 8


def new(dtype, *shape):
    return torch.empty(shape, dtype=dtype, device="cuda")


def run(logits, bias, x, x_scale, w1, w1_scale, w2, w2_scale, offset, factor, output):
    tokens, local = x.shape[0], w1.shape[0]
    expert, share = new(torch.int32, tokens, TOP), new(torch.float32, tokens, TOP)
    lists, count = new(torch.int32, local, tokens), new(torch.int32, local)
    inner, parts = new(torch.float16, tokens * TOP, INNER), new(torch.float32, tokens * TOP, HIDDEN)
    route((tokens,), (256,), (logits, bias, expert, share, int(offset), local, float(factor)))
    gather((local,), (256,), (expert, lists, count, tokens))
    up((INNER // 128, local), (128,), (x, x_scale, w1, w1_scale, lists, count, inner, tokens))
    down((HIDDEN // 128, local), (128,), (inner, w2, w2_scale, lists, count, share, parts, tokens))
    combine((HIDDEN // 256, tokens), (256,), (parts, expert, output))
