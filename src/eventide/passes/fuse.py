"""fuse: norms into the prologue of the linear that follows, activations and residuals into its epilogue.

    h = rms_norm(x, g)                     y = linear(x, w, norm_weight=g)
    y = linear(h, w)              →

    u = linear(h, w)                       y = linear(h, w, activation="silu_mul")
    y = silu_mul(u)               →

    d = linear(h, w)                       y = linear(h, w, residual=x)
    y = add(x, d)                 →        (with the same `rows` in both calls or in neither)

A producer is fused only when nobody else reads what it made, except norms, which every reader recomputes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from ..ops.program import OpCall, Program, replace_calls


def fuse(program: Program, *, norms: bool = True) -> Program:
    """`norms`: False for targets whose products take their input as it is."""
    calls = _norms(program) if norms else list(program.calls)
    calls = _epilogues(calls, program)
    kept = {name for c in calls for name in c.operands.values()}
    tensors = {k: t for k, t in program.tensors.items() if k in kept or t.role != "scratch"}
    return replace_calls(program, calls, tensors)


def _by_hand(call: OpCall) -> bool:
    return call.waits is not None or call.notifies is not None


def _norms(program: Program) -> list[OpCall]:
    calls = program.calls
    norms = {c.operands["y"]: c for c in calls if c.op == "rms_norm" and not _by_hand(c)}
    out = []
    for c in calls:
        norm = norms.get(c.operands.get("x", ""))
        if c.op == "linear" and norm and not _by_hand(c) and not {"norm_weight", "rows", "squares"} & set(c.operands):
            operands = {**c.operands, "x": norm.operands["x"], "norm_weight": norm.operands["w"]}
            if "rows" in norm.operands:
                operands["rows"] = norm.operands["rows"]
            c = replace(c, operands=operands, attrs={**c.attrs, "eps": norm.attrs["eps"]})
        out.append(c)
    used = {name for name, t in program.tensors.items() if t.role != "scratch"}
    used |= {name for c in out for k, name in c.operands.items() if not (c.op == "rms_norm" and k == "y")}
    return [c for c in out if not (c.op == "rms_norm" and c.operands["y"] in norms and c.operands["y"] not in used)]


def _epilogues(calls: list[OpCall], program: Program) -> list[OpCall]:
    readers = Counter(name for c in calls for name in set(c.operands.values()))
    made = {c.operands["y"]: i for i, c in enumerate(calls) if c.op == "linear"}
    out: list[OpCall | None] = list(calls)
    for i, c in enumerate(calls):
        if c.op not in ("silu_mul", "add") or _by_hand(c):
            continue
        for k in ("x",) if c.op == "silu_mul" else ("b", "a"):
            source = c.operands[k]
            j = made.get(source)
            lin = out[j] if j is not None else None
            # read by its maker and by this call alone, and nobody outside asked for it
            if lin is None or readers[source] != 2 or program.tensors[source].role != "scratch" or _by_hand(lin):
                continue
            if c.op == "silu_mul" and (lin.attrs["activation"] != "none" or "residual" in lin.operands):
                continue
            if c.op == "add" and ("residual" in lin.operands or c.operands["a"] == c.operands["b"]):
                continue
            if c.op == "add" and (c.operands.get("rows") != lin.operands.get("rows") or ("rows" in c.operands and k == "a")):
                continue
            operands = {**lin.operands, "y": c.operands["y"]}
            attrs = dict(lin.attrs)
            if c.op == "silu_mul":
                attrs["activation"] = "silu_mul"
            else:
                operands["residual"] = c.operands["a" if k == "b" else "b"]
            assert j is not None
            out[j], out[i] = None, replace(lin, operands=operands, attrs=attrs)
            made[c.operands["y"]] = i
            break
    return [c for c in out if c is not None]
