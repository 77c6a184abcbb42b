"""Rows of tokens for training, made by worker processes while the model trains: fresh text, hardly ever seen twice.

A row starts with the start of a document, holds whole documents one after another, and is cut after ROW_LEN + 1 tokens:

    [<|im_start|> user … <|endoftext|> Once upon … <|endoftext|> <|im_start|> … cut]      int16[ROW_LEN + 1]

Shard `n` of worker `w` depends on the seed, `w` and `n` alone. Which shards a run gets to see depends on its speed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from .corpus import documents, render
from .items import Split

ROW_LEN = 512
SHARD_ROWS = 1024
_BATCH_DOCUMENTS = 512


def rows(tokenizer: Tokenizer, seed: int | str, split: Split, count: int) -> NDArray[np.int16]:
    """`count` packed rows, int16 [count, ROW_LEN + 1]."""
    stream = documents(seed, split)
    packed = np.empty((count, ROW_LEN + 1), np.int16)
    filled, row = 0, []
    while True:
        for encoding in tokenizer.encode_batch_fast([render(d) for d in islice(stream, _BATCH_DOCUMENTS)]):
            row += encoding.ids
            if len(row) > ROW_LEN:
                packed[filled] = row[: ROW_LEN + 1]
                filled, row = filled + 1, []
                if filled == count:
                    return packed


def produce(tokenizer_file: Path, folder: Path, seed: int, worker: int, limit: int) -> None:
    """Write shards until there are `limit` of them."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    for n in range(limit):
        shard = rows(tokenizer, f"{seed}/{worker}/{n}", "train", SHARD_ROWS)
        name = folder / f"{n:06d}-{worker:03d}"
        np.save(name.with_suffix(".tmp.npy"), shard)
        # the reader skips *.tmp.npy, so it never sees half a shard
        os.replace(name.with_suffix(".tmp.npy"), name.with_suffix(".npy"))


def start_workers(
    tokenizer_file: Path, folder: Path, seed: int, count: int, limit: int
) -> list[subprocess.Popen[bytes]]:
    """Start `count` processes which each write at most `limit` shards into `folder`; the caller ends them."""
    # a program of their own rather than forks, so that none of them imports torch
    command = [sys.executable, "-m", "train_tiny.pack", str(tokenizer_file), str(folder), str(seed)]
    environment = os.environ | {
        "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(Path(__file__).resolve().parents[1])
    }  # fmt: skip
    return [subprocess.Popen([*command, str(w), str(limit)], env=environment) for w in range(count)]


def new_shards(folder: Path, seen: set[str]) -> list[NDArray[np.int16]]:
    """Shards that are finished and not in `seen`, which is updated."""
    fresh = sorted(p for p in folder.glob("*.npy") if not p.name.endswith(".tmp.npy") and p.name not in seen)
    loaded = []
    for path in fresh:
        seen.add(path.name)
        loaded.append(np.load(path))
        path.unlink()
    return loaded


if __name__ == "__main__":
    produce(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:6]))
