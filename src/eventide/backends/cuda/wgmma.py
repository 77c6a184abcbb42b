"""The one instruction whose text depends on a plan: wgmma with so many tokens.

PTX's `wgmma.mma_async` names every register of its sums, so its text is made here and not written out for each size: 64 rows of a
from registers, `tokens` columns of b [16, tokens] from shared memory, float32 sums (PTX ISA 8.x, "Asynchronous warpgroup level
matrix instructions"). A thread's sums are those of mma.m16n8k16, for each 8 tokens in turn.
"""

from __future__ import annotations


def wgmma_source(tokens: int) -> str:
    """C++ of `wgmma_product(sums, a, b)` for a multiple of 8 tokens, at most 256."""
    n = tokens // 2
    sums = ", ".join(f"%{i}" for i in range(n))
    outputs = ", ".join(f'"+f"(d[{i}])' for i in range(n))
    operands = f"{{{sums}}}, {{%{n}, %{n + 1}, %{n + 2}, %{n + 3}}}, %{n + 4}, 1, 1, 1, 0;"
    return f"""// ---- generated: d[64, {tokens}] += a[64, 16] * b[16, {tokens}]; 'b' describes the matrix in shared memory
namespace ev {{
__device__ __forceinline__ void wgmma_product(float (&d)[{n}], const u32 (&a)[4], u64 b) {{
  asm volatile("wgmma.mma_async.sync.aligned.m64n{tokens}k16.f32.bf16.bf16 {operands}"
               : {outputs}
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}}
}}  // namespace ev
"""
