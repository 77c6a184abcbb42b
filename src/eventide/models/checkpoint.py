"""The weights of a checkpoint directory: ``model.safetensors``, or the shards in ``model.safetensors.index.json``.

    checkpoint = Checkpoint.open(directory)              every header read and checked, no weight read
    weights = open_weights(directory, specs, dtype="bfloat16")
    for name, array in iter_weights(specs, weights, "bfloat16"):
        ...                                              one weight in memory at a time, beyond what the caller keeps

Files are mapped, so a weight that is already in the wanted dtype costs no memory until it is read, and opening a large
checkpoint takes milliseconds. All that is wrong is found when it is opened: missing and half-downloaded shards, corrupt
headers, tensors that are missing, misshaped or mistyped, tensors that the model has no use for, too little memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eventide import dtypes
from eventide.errors import CheckpointError, MissingFileError, TensorError, UsageError
from eventide.models.dummy import DummyWeights
from eventide.models.jsonfile import read_json
from eventide.models.memory import require_memory
from eventide.models.stored import StoredTensor, map_tensor, read_header
from eventide.models.weights import Kind, Source, WeightSource, WeightSpec, total_bytes

__all__ = ["LOAD_FORMATS", "Checkpoint", "open_weights"]

LOAD_FORMATS = ("auto", "safetensors", "dummy")
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SOURCE_CODES = ("F32", "BF16", "F16")


class Checkpoint:
    """The tensors of one checkpoint, by name. A `WeightSource`."""

    def __init__(self, directory: Path, tensors: Mapping[str, StoredTensor]) -> None:
        self.directory = directory
        self.tensors = tensors

    @classmethod
    def open(cls, directory: Path) -> Checkpoint:
        """Read and check the header of every weights file in `directory`."""
        if (directory / INDEX).is_file():
            return cls(directory, _read_shards(directory))
        if (directory / SINGLE).is_file():
            return cls(directory, read_header(directory / SINGLE))
        raise _no_weights(directory)

    def view(self, source: Source) -> npt.NDArray[Any]:
        """The tensor as stored, read-only, mapped. Raises `TensorError` with name, expected and found."""
        return map_tensor(self._find(source))

    def _find(self, source: Source) -> StoredTensor:
        tensor = self.tensors.get(source.name)
        if tensor is None:
            raise TensorError(
                f"tensor {source.name} is missing in {self.directory}; config.json asks for it with shape "
                f"{list(source.shape)}, so the weights belong to another model or a shard is incomplete"
            )
        if tensor.shape != source.shape:
            raise TensorError(
                f"tensor {source.name} in {tensor.path.name}: expected shape {list(source.shape)} from config.json, "
                f"got {list(tensor.shape)}; config.json and weights belong to different models"
            )
        if tensor.code not in _SOURCE_CODES:
            raise TensorError(
                f"tensor {source.name} in {tensor.path.name}: expected dtype {', '.join(_SOURCE_CODES)}, got "
                f"{tensor.code}; quantized weights aren't supported"
            )
        return tensor

    def fill(self, source: Source, kind: Kind, out: npt.NDArray[Any]) -> None:
        """Convert the tensor into `out`, rounding to nearest even; `TensorError` if a value overflows float16."""
        try:
            # NumPy casts through a small buffer, so no copy in another dtype is made
            with np.errstate(over="raise"):
                out[...] = self.view(source)
        except FloatingPointError:
            raise TensorError(
                f"tensor {source.name} holds values beyond {out.dtype.name}'s range; load it as bfloat16 or float32"
            ) from None

    def check(self, specs: Sequence[WeightSpec]) -> None:
        """Raise `TensorError` unless every source is there as expected and every tensor of the files is used."""
        used = set()
        for spec in specs:
            for source in spec.sources:
                self._find(source)
                used.add(source.name)
        tied_head = not any(spec.name == "lm_head" for spec in specs)
        # old files carry RoPE tables and a second copy of a tied head, which config.json determines
        harmless = ("rotary_emb.inv_freq", "lm_head.weight") if tied_head else ("rotary_emb.inv_freq",)
        extra = sorted(name for name in self.tensors if name not in used and not name.endswith(harmless))
        if extra:
            others = f" (and {len(extra) - 1} more)" if len(extra) > 1 else ""
            raise TensorError(
                f"tensor {extra[0]}{others} in {self.directory} has no place in the model that config.json describes; "
                "its results would be wrong without it"
            )


def open_weights(
    directory: Path, specs: Sequence[WeightSpec], *, dtype: str, load_format: str = "auto", seed: int = 0
) -> WeightSource:
    """Where the weights of `specs` come from, checked, with memory for all of them in `dtype` at hand.

    `load_format` is ``auto`` or ``safetensors`` (the files of `directory`), or ``dummy`` (random values from `seed`).
    Raises `UsageError`, `MissingFileError`, `CheckpointError`, `TensorError` and `OutOfMemoryError`.
    """
    if load_format not in LOAD_FORMATS:
        raise UsageError(f"load_format must be one of {', '.join(LOAD_FORMATS)}, got {load_format!r}")
    if not dtypes.is_float(dtype):
        raise UsageError(f"weights can't be loaded as {dtype}; take float32, bfloat16 or float16")
    checkpoint = None if load_format == "dummy" else Checkpoint.open(directory)
    if checkpoint is not None:
        checkpoint.check(specs)
    require_memory(total_bytes(specs, dtype), f"the weights of {directory.name} in {dtype}")
    return checkpoint if checkpoint is not None else DummyWeights(seed)


def _read_shards(directory: Path) -> dict[str, StoredTensor]:
    index = read_json(directory / INDEX)
    weight_map = index.nested("weight_map")
    named = () if weight_map is None else tuple(weight_map.raw.values())
    # a bare file name, so that an index can't point outside its directory
    if weight_map is None or not all(isinstance(shard, str) and Path(shard).name == shard for shard in named):
        raise CheckpointError(f"{INDEX} in {directory} must hold a weight_map from tensor names to file names")
    shards = sorted(set(named))
    missing = [shard for shard in shards if not (directory / shard).is_file()]
    if missing:
        raise MissingFileError(
            f"{len(missing)} of {len(shards)} shards are missing in {directory}: {', '.join(missing[:8])}"
            f"{', …' if len(missing) > 8 else ''}; fetch the checkpoint again"
        )
    headers = {shard: read_header(directory / shard) for shard in shards}
    for name, shard in weight_map.raw.items():
        if name not in headers[shard]:
            raise TensorError(f"tensor {name} is missing in {shard}, where {INDEX} places it; fetch both files again")
    return {name: headers[shard][name] for name, shard in weight_map.raw.items()}


def _no_weights(directory: Path) -> MissingFileError:
    if not directory.is_dir():
        return MissingFileError(f"{directory} isn't a directory; give one with config.json and *.safetensors files")
    if any(directory.glob("model-*-of-*.safetensors")):
        return MissingFileError(f"{INDEX} is missing in {directory}, though shards are there; fetch it again")
    if any(directory.glob("*.bin")) or any(directory.glob("*.pth")):
        return MissingFileError(
            f"{directory} has PyTorch weights only; save them as safetensors (transformers: save_pretrained)"
        )
    return MissingFileError(
        f"no weights in {directory}: expected {SINGLE} or {INDEX}; load_format='dummy' runs it with random ones"
    )
