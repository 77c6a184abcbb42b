"""Weights against what transformers saved, in every dtype and layout; and every way in which files can be unusable."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from eventide import dtypes
from eventide.errors import CheckpointError, MissingFileError, OutOfMemoryError, TensorError, UsageError
from eventide.models.checkpoint import INDEX, SINGLE, Checkpoint, open_weights
from eventide.models.registry import family_of, load_config
from eventide.models.weights import Source, WeightSpec, iter_weights
from tests.checkpoints import SHAPES, Shape, edit_json, load_reference, make_checkpoint


def load(directory: Path, dtype: str = "float32") -> dict[str, npt.NDArray[Any]]:
    config = load_config(directory)
    specs = family_of(config).weight_specs(config)
    return dict(iter_weights(specs, open_weights(directory, specs, dtype=dtype), dtype))


def as_float32(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    return tensor.to(torch.float32).numpy()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_families_against_transformers(tmp_path: Path, shape: Shape) -> None:
    make_checkpoint(tmp_path, shape)
    theirs = load_reference(tmp_path).state_dict()
    ours = load(tmp_path)
    config = load_config(tmp_path)
    for spec in family_of(config).weight_specs(config):
        tensors = [theirs.pop(source.name).numpy() for source in spec.sources]
        expected = np.stack(tensors, 1).reshape(spec.shape) if spec.interleave else np.concatenate(tensors)
        assert ours[spec.name].shape == spec.shape
        np.testing.assert_array_equal(ours[spec.name], expected)
    assert set(theirs) <= {"lm_head.weight"}  # tied: the embedding under another name


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("wanted", ["float32", "bfloat16", "float16"])
def test_dtypes(tmp_path: Path, stored: str, wanted: str) -> None:
    make_checkpoint(tmp_path, Shape(dtype=stored))
    theirs = load_file(tmp_path / SINGLE)
    ours = load(tmp_path, wanted)
    for name, tensor in (("embed_tokens", "model.embed_tokens.weight"), ("norm", "model.norm.weight")):
        assert ours[name].dtype == dtypes.to_numpy(wanted)
        expected = as_float32(theirs[tensor].to(getattr(torch, wanted)))
        np.testing.assert_array_equal(ours[name].astype(np.float32), expected)
        # a weight in the wanted dtype is the mapped file itself
        assert ours[name].flags.writeable == (stored != wanted)


@pytest.mark.parametrize("num_shards", [2, 5])
def test_shards_equal_a_single_file(tmp_path: Path, num_shards: int) -> None:
    make_checkpoint(tmp_path / "single", SHAPES["qwen2"])
    make_checkpoint(tmp_path / "sharded", SHAPES["qwen2"], num_shards=num_shards)
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) >= num_shards
    single, sharded = load(tmp_path / "single"), load(tmp_path / "sharded")
    assert single.keys() == sharded.keys()
    for name in single:
        np.testing.assert_array_equal(single[name], sharded[name])


def test_fused_rows_in_order(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, SHAPES["qwen2"])
    theirs = {name: as_float32(tensor) for name, tensor in load_file(tmp_path / SINGLE).items()}
    ours = load(tmp_path)
    layer = "model.layers.1."
    parts = [theirs[f"{layer}self_attn.{part}_proj.bias"] for part in "qkv"]
    np.testing.assert_array_equal(ours["layers.1.qkv_bias"], np.concatenate(parts))
    gate_up = ours["layers.1.gate_up_proj"]
    np.testing.assert_array_equal(gate_up[0::2], theirs[f"{layer}mlp.gate_proj.weight"])
    np.testing.assert_array_equal(gate_up[1::2], theirs[f"{layer}mlp.up_proj.weight"])


def test_tensors_at_odd_offsets_are_copied(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    header += b" " * ((3 - len(header)) % 4)
    (tmp_path / SINGLE).write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<2f", 1.5, -2.0))
    specs = [WeightSpec("w", (Source("w", (2,)),))]
    ((_, array),) = iter_weights(specs, Checkpoint.open(tmp_path), "float32")
    assert array.flags.aligned
    np.testing.assert_array_equal(array, [1.5, -2.0])


def test_harmless_leftovers(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, SHAPES["qwen3 tied"])
    tensors = load_file(tmp_path / SINGLE)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(tensors, tmp_path / SINGLE)
    assert "lm_head" not in load(tmp_path)


def truncate(path: Path, num_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:num_bytes])


def test_missing_shards_are_named(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, num_shards=3)
    shards = sorted(tmp_path.glob("*.safetensors"))
    shards[1].unlink()
    with pytest.raises(MissingFileError, match=f"1 of {len(shards)} shards are missing .*: {shards[1].name}"):
        load(tmp_path)


@pytest.mark.parametrize("num_bytes", [0, 5, 60, -1, -1000])
def test_half_downloaded_shard_is_named(tmp_path: Path, num_bytes: int) -> None:
    make_checkpoint(tmp_path, num_shards=3)
    shard = sorted(tmp_path.glob("*.safetensors"))[-1]
    truncate(shard, num_bytes)
    with pytest.raises(MissingFileError, match=rf"{shard.name} is half downloaded: expected at least \d+ bytes"):
        load(tmp_path)


def test_git_lfs_pointer(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    (tmp_path / SINGLE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(MissingFileError, match="git lfs pull"):
        load(tmp_path)


def with_header(header: bytes, data: bytes = b"\0" * 8) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


CORRUPT = {
    "not JSON": with_header(b'{"w": '),
    "not an object": with_header(b"[1, 2]"),
    "not UTF-8": with_header(b"\xff\xfe{}"),
    "no offsets": with_header(b'{"w": {"dtype": "F32", "shape": [2]}}'),
    "negative shape": with_header(b'{"w": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}'),
    "offsets reversed": with_header(b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}'),
    "shape against offsets": with_header(b'{"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}'),
    "overlap": with_header(
        b'{"v": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},'
        b' "w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}'
    ),
    "bytes after the end": with_header(b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'),
    "absurd length": struct.pack("<Q", 2**60) + b"{}",
}


@pytest.mark.parametrize("content", CORRUPT.values(), ids=CORRUPT)
def test_corrupt_header(tmp_path: Path, content: bytes) -> None:
    make_checkpoint(tmp_path)
    (tmp_path / SINGLE).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors has a corrupt safetensors header: ") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


@given(changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=150)
def test_any_damage_to_a_header_is_found_or_harmless(
    changes: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.getbasetemp() / "damaged"
    if not directory.exists():
        make_checkpoint(directory, Shape(num_layers=1))
        (directory / "whole").write_bytes((directory / SINGLE).read_bytes())
    content = bytearray((directory / "whole").read_bytes())
    for position, value in changes:
        content[position] = value
    (directory / SINGLE).write_bytes(content)
    with contextlib.suppress(CheckpointError):
        assert load(directory)


def edit_tensors(edit: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def apply(directory: Path) -> None:
        tensors = load_file(directory / SINGLE)
        edit(tensors)
        save_file(tensors, directory / SINGLE)

    return apply


K_PROJ = "model.layers.1.self_attn.k_proj.weight"
BAD_TENSORS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "missing": (lambda t: t.pop(K_PROJ), rf"{K_PROJ} is missing .* shape \[32, 64\]"),
    "shape": (lambda t: t.update({K_PROJ: t[K_PROJ][:16].clone()}), r"expected shape \[32, 64\].*, got \[16, 64\]"),
    "transposed": (
        lambda t: t.update({K_PROJ: t[K_PROJ].T.contiguous()}),
        r"expected shape \[32, 64\].*, got \[64, 32\]",
    ),
    "dtype": (lambda t: t.update({K_PROJ: t[K_PROJ].to(torch.int8)}), "expected dtype F32, BF16, F16, got I8"),
    "fp8": (lambda t: t.update({K_PROJ: t[K_PROJ].to(torch.float8_e4m3fn)}), "expected dtype .*, got F8_E4M3"),
    "unused": (
        lambda t: t.update({K_PROJ[:-6] + "bias": torch.ones(32)}),
        r"tensor .*\.k_proj\.bias in .* has no place",
    ),
}


@pytest.mark.parametrize(("edit", "expected"), BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_unfit_tensors(tmp_path: Path, edit: Callable[[dict[str, torch.Tensor]], Any], expected: str) -> None:
    make_checkpoint(tmp_path)
    edit_tensors(edit)(tmp_path)
    with pytest.raises(TensorError, match=expected):
        load(tmp_path)


def test_values_beyond_float16(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    edit_tensors(lambda tensors: tensors[K_PROJ].fill_(1e6))(tmp_path)
    with pytest.raises(TensorError, match="beyond float16's range"):
        load(tmp_path, "float16")
    assert load(tmp_path, "bfloat16")["layers.1.qkv_proj"].dtype == ml_dtypes.bfloat16


def test_index_that_names_a_tensor_its_shard_lacks(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, num_shards=2)
    index = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    first = sorted(set(index.values()))[0]
    edit_json(tmp_path / INDEX, weight_map={**index, "model.extra.weight": first})
    with pytest.raises(TensorError, match=rf"model\.extra\.weight is missing in {first}"):
        load(tmp_path)


@pytest.mark.parametrize("weight_map", [None, 5, {"w": 5}, {"w": "../other.safetensors"}, {"w": "/etc/passwd"}])
def test_malformed_index(tmp_path: Path, weight_map: Any) -> None:
    make_checkpoint(tmp_path, num_shards=2)
    edit_json(tmp_path / INDEX, weight_map=weight_map)
    with pytest.raises(CheckpointError, match="weight_map"):
        load(tmp_path)


def test_no_weights(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, num_shards=2)
    (tmp_path / INDEX).unlink()
    with pytest.raises(MissingFileError, match=r"index\.json is missing"):
        load(tmp_path)
    for shard in tmp_path.glob("*.safetensors"):
        shard.unlink()
    with pytest.raises(MissingFileError, match=r"no weights in .*: expected model\.safetensors"):
        load(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(MissingFileError, match="PyTorch weights only"):
        load(tmp_path)
    with pytest.raises(MissingFileError, match="isn't a directory"):
        Checkpoint.open(tmp_path / "elsewhere")


def test_not_enough_memory_is_said_before_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkpoint(tmp_path)
    monkeypatch.setenv("EVENTIDE_MEMORY_LIMIT", "1KiB")
    with pytest.raises(OutOfMemoryError, match=r"need \d+\.\d KiB of memory and 1\.0 KiB are available"):
        load(tmp_path)


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="load_format must be one of auto, safetensors, dummy, got 'gguf'"):
        open_weights(tmp_path, [], dtype="float32", load_format="gguf")
    with pytest.raises(UsageError, match="can't be loaded as int8"):
        open_weights(tmp_path, [], dtype="int8")
    with pytest.raises(UsageError, match="unknown dtype 'fp32'"):
        open_weights(tmp_path, [], dtype="fp32")
