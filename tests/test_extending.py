"""A new operator is one new folder and a new model is one new file: shown on copies of the package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import eventide
from tests.checkpoints import SHAPES, make_checkpoint

ROOT = Path(__file__).parents[1]
PACKAGE = Path(eventide.errors.__file__).parent

OPERATOR_CHECK = """
import numpy as np
import eventide
from eventide.ops import list_ops

assert "scale_rows" in list_ops()
p = eventide.Program("toy")
n = p.symbol("num_rows", 1, 100)
p.output(p.call("scale_rows", x=p.input("x", (n, 24), "float32")), "y")
x = np.random.default_rng(0).normal(size=(50, 24)).astype(np.float32)
for target in ("interp", "cpu"):
    y = eventide.compile(p, target=target, num_threads=2)(x=x)
    assert np.allclose(y, x / np.abs(x).max(axis=1, keepdims=True), atol=1e-6), target
"""

MODEL = '''
"""A Llama under other names: what a new family is made of."""

from dataclasses import replace

from eventide.models.config import parse_decoder_config
from eventide.models.jsonfile import Fields
from eventide.models.registry import ModelFamily, register_model
from eventide.models.weights import Source, decoder_weights

KEYS = {"width": "hidden_size", "depth": "num_hidden_layers", "heads": "num_attention_heads"}


@register_model
class Toy(ModelFamily):
    name = "toy"
    architectures = ("ToyForCausalLM",)

    @classmethod
    def parse_config(cls, fields, architecture):
        raw = {KEYS.get(key, key): value for key, value in fields.raw.items()}
        return parse_decoder_config(Fields(raw, fields.source), architecture=architecture)

    @classmethod
    def weight_specs(cls, config):
        return [
            replace(spec, sources=tuple(Source("toy." + s.name, s.shape) for s in spec.sources))
            for spec in decoder_weights(config)
        ]
'''

MODEL_CHECK = """
import sys
import numpy as np
import eventide

with eventide.LLM(sys.argv[1], device="cpu", num_threads=2) as llm:
    assert llm.config.architecture == "ToyForCausalLM"
    np.save(sys.argv[2], llm.logits(list(range(5, 40))))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the installed package, the compiled extension included, that may be added to."""
    target = Path(shutil.copytree(PACKAGE, tmp_path / "site" / "eventide", ignore=shutil.ignore_patterns("__pycache__")))
    if not list(target.glob("_native*.so")):  # an editable install keeps the extension apart
        from eventide import _native

        shutil.copy(str(_native.__file__), target)
    return target


def run(copy: Path, code: str, *arguments: object) -> None:
    environment = {**os.environ, "PYTHONPATH": str(copy.parent), "EVENTIDE_CACHE_DIR": str(copy.parent / "cache")}
    # -P and -S would lose the dependencies; the path comes first, but for the finder of an editable install
    editable = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != 'ScikitBuildRedirectingFinder']"
    code = f"{editable}\nimport eventide; assert eventide.__file__.startswith({str(copy)!r}), eventide.__file__\n{code}"
    found = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env=environment, capture_output=True, text=True, cwd=copy.parent
    )
    assert found.returncode == 0, found.stderr


def test_an_operator_is_one_folder(copy: Path) -> None:
    shutil.copytree(ROOT / "examples" / "scale_rows", copy / "ops" / "scale_rows")
    run(copy, OPERATOR_CHECK)


def test_a_model_is_one_file(copy: Path, tmp_path: Path) -> None:
    (copy / "models" / "toy.py").write_text(MODEL)
    llama = make_checkpoint(tmp_path / "llama", SHAPES["llama"], seed=6)
    toy = Path(shutil.copytree(llama, tmp_path / "toy"))
    config = json.loads((toy / "config.json").read_text())
    names = {"hidden_size": "width", "num_hidden_layers": "depth", "num_attention_heads": "heads"}
    config = {names.get(key, key): value for key, value in config.items()}
    (toy / "config.json").write_text(json.dumps({**config, "architectures": ["ToyForCausalLM"], "model_type": "toy"}))
    weights = (toy / "model.safetensors").read_bytes()
    size = int.from_bytes(weights[:8], "little")
    header = {k if k == "__metadata__" else "toy." + k: v for k, v in json.loads(weights[8 : 8 + size]).items()}
    text = json.dumps(header).encode()
    (toy / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + weights[8 + size :])
    run(copy, MODEL_CHECK, toy, tmp_path / "logits.npy")
    with eventide.LLM(llama, device="cpu", num_threads=2) as llm:
        assert np.array_equal(np.load(tmp_path / "logits.npy"), llm.logits(list(range(5, 40))))
