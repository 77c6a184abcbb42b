"""What a plan is compiled for: the kind of device, how many workers, and the tile sizes that suit it."""

from __future__ import annotations

from dataclasses import dataclass

WORKERS = 132  # multiprocessors of the largest GPU
TILES = "tiles.cuda"  # the layout of activations that wide products of a GPU read, see device/cuda/tiles.cuh
WIDE_ROWS = 64  # rows of a weight that one task of theirs takes
DIRECT_ROWS = 48  # of direct ones (device/cuda/direct.cuh), so that the ring holds all chunks of a block with 1,024 columns
HALF_ROWS = 32  # or half as many, of slabs with 16 tokens, where most workers would have none else
SLIM_ROWS = 16  # or fewer, of slim ones (device/cuda/slim.cuh)
SLIM_MOST = 256  # rows of a worker up to which products are slim: their input comes once for every 64, or 32 with 32 tokens


@dataclass(frozen=True)
class Target:
    """A compilation target. Plans made for one kind run on that kind and on the interpreter.

    kind: "cpu" or "cuda". num_workers: persistent workers (threads, or one block per multiprocessor). tile_rows: rows
    of a weight panel. tile_tokens: tokens one task handles at most. tile_queries: query tokens of one attention task.
    split_kv: positions one attention task covers (0: the whole context in one task). tight: whether bfloat16 weights stand in
    12 bits, without loss; binding one that doesn't fit raises LooseWeightsError, and the engine makes its plans again with
    that one as it is. tight_bytes: where half of the weights are smaller than so many bytes, those that are stay as they are.
    slim: whether matrix products of 16 or 32 tokens take 16 rows a task. direct: whether those of 16 take their input as it stands
    (device/cuda/direct.cuh).
    """

    kind: str
    num_workers: int
    tile_rows: int
    tile_tokens: int
    tile_queries: int
    split_kv: int = 0
    arch: str = ""
    tight: bool = False
    tight_bytes: int = 16 << 20
    slim: bool = False
    direct: bool = False

    def weight_layout(self, dtype: str) -> str:
        """The layout of a weight that matrix products stream."""
        return f"{'tight' if self.tight and dtype == 'bfloat16' else 'panel'}{self.tile_rows}.{self.kind}"

    @property
    def wide(self) -> bool:
        """Whether matrix products take many tokens a task (device/cuda/wide.cuh)."""
        return self.kind == "cuda" and self.tile_tokens > 8

    def product_rows(self, rows: int | None, slabs: int = 0) -> int:
        """Rows of a weight of so many, if that is known, that one task of a matrix product takes. `slabs`: into how many of an even
        number of lines (device/cuda/wide.cuh) k is cut, each with tasks of its own."""
        if not self.wide:
            return self.tile_rows
        if self.direct:
            return DIRECT_ROWS
        if slabs and rows is not None and self.tile_tokens == 16 and 2 * slabs * -(-rows // WIDE_ROWS) <= self.num_workers:
            return HALF_ROWS
        slim = self.slim and rows is not None and rows % SLIM_ROWS == 0 and rows <= SLIM_MOST * self.num_workers
        return SLIM_ROWS if slim else WIDE_ROWS

    def product_layouts(self, dtype: str) -> dict[str, str]:
        """Layouts of a matrix product's operands, the weight `w` being of `dtype`."""
        return {"w": self.weight_layout(dtype), **({"x": TILES} if self.wide and not self.direct else {})}

    @property
    def name(self) -> str:
        return f"{self.kind}{'-' + self.arch if self.arch else ''} x{self.num_workers}"


def cpu(num_workers: int = 2) -> Target:
    return Target("cpu", num_workers, tile_rows=32, tile_tokens=128, tile_queries=16)


def h200(num_workers: int = WORKERS, tile_tokens: int = 8, *, tight: bool = True) -> Target:
    """One NVIDIA H200: 132 multiprocessors."""
    return Target("cuda", num_workers, 8, tile_tokens, tile_queries=1, split_kv=64, arch="sm_90a", tight=tight)
