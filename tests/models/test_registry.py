"""Families are found by file and by decorator, with nothing else to edit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from eventide.models.config import ModelConfig
from eventide.models.jsonfile import Fields
from eventide.models.registry import ModelFamily, architectures, families, family_of, register_model
from eventide.models.weights import WeightSpec
from tests.models.test_config import parse


def test_listing() -> None:
    assert {"LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"} <= set(architectures())
    assert {"llama", "qwen2", "qwen3"} <= {family.name for family in families()}


def test_family_of_a_config() -> None:
    assert family_of(parse()).name == "qwen3"


def test_two_families_may_not_claim_one_architecture() -> None:
    class Other(ModelFamily):
        name = "other"
        architectures = ("Qwen3ForCausalLM",)

        @classmethod
        def parse_config(cls, fields: Fields, architecture: str) -> ModelConfig:
            raise NotImplementedError

        @classmethod
        def weight_specs(cls, config: ModelConfig) -> list[WeightSpec]:
            raise NotImplementedError

    architectures()  # so that Qwen3 is there
    with pytest.raises(ValueError, match="registered by both Qwen3 and Other"):
        register_model(Other)


def test_a_new_model_is_one_file(tmp_path: Path) -> None:
    # a folder put on the package's path stands for the package's own folder; nothing else names the new file
    (tmp_path / "toy.py").write_text(
        "from eventide.models.llama import Llama\n"
        "from eventide.models.registry import register_model\n\n"
        "@register_model\n"
        "class Toy(Llama):\n"
        "    name = 'toy'\n"
        "    architectures = ('ToyForCausalLM',)\n"
    )
    program = (
        "import sys, eventide.models as package\n"
        "package.__path__.append(sys.argv[1])\n"
        "from eventide.models.registry import architectures\n"
        "print(*architectures())\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "ToyForCausalLM" in done.stdout.split()
    assert "ToyForCausalLM" not in architectures()
