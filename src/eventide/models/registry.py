"""The model families, by the architecture names that config.json uses.

A family is a class decorated by `register_model`, in a file of its own in this folder; looking a family up imports
every module of the folder once, so a new file is all that a new model needs:

    @register_model
    class Qwen3(ModelFamily):
        name = "qwen3"
        architectures = ("Qwen3ForCausalLM",)

        @classmethod
        def parse_config(cls, fields, architecture): ...
        @classmethod
        def weight_specs(cls, config): ...
        @classmethod
        def build_program(cls, config, limits, dtype): ...        where it isn't that of a Llama-like decoder
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from eventide.errors import CheckpointError, UnsupportedModelError
from eventide.models.config import ModelConfig
from eventide.models.jsonfile import Fields, read_json
from eventide.models.weights import WeightSpec

if TYPE_CHECKING:
    from eventide.models.decoder import Limits
    from eventide.ops.program import Program

__all__ = ["ModelFamily", "architectures", "families", "family_of", "find_family", "load_config", "register_model"]


class ModelFamily(ABC):
    """What Eventide knows of a family of models. Never instantiated: all is in class methods."""

    name: ClassVar[str]  # `model_type` in config.json
    architectures: ClassVar[tuple[str, ...]]  # names that `architectures` in config.json may hold

    @classmethod
    @abstractmethod
    def parse_config(cls, fields: Fields, architecture: str) -> ModelConfig:
        """config.json → ModelConfig; raises `UnsupportedModelError` for a feature that isn't computed."""

    @classmethod
    @abstractmethod
    def weight_specs(cls, config: ModelConfig) -> list[WeightSpec]:
        """Every weight of the program, in the order in which the model uses them."""

    @classmethod
    def build_program(cls, config: ModelConfig, limits: Limits, dtype: str) -> Program:
        """The program of one step, with the inputs, states and outputs that `models.decoder` describes; here that of a
        Llama-like decoder."""
        from eventide.models.decoder import build_decoder

        return build_decoder(config, limits, dtype)


Family = TypeVar("Family", bound=type[ModelFamily])
_FAMILIES: dict[str, type[ModelFamily]] = {}
_discovered = False


def register_model(family: Family) -> Family:
    """Class decorator: make a family known under its `architectures`. Two classes may not claim one architecture."""
    for architecture in family.architectures:
        other = _FAMILIES.setdefault(architecture, family)
        if other is not family:
            raise ValueError(f"{architecture} is registered by both {other.__name__} and {family.__name__}")
    return family


def _known() -> dict[str, type[ModelFamily]]:
    global _discovered
    if not _discovered:
        import eventide.models as package

        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")
        _discovered = True
    return _FAMILIES


def architectures() -> tuple[str, ...]:
    """Every architecture name that can be loaded, sorted."""
    return tuple(sorted(_known()))


def families() -> tuple[type[ModelFamily], ...]:
    """Every family, sorted by name."""
    return tuple(sorted(set(_known().values()), key=lambda family: family.name))


def find_family(fields: Fields) -> tuple[type[ModelFamily], str]:
    """(family, architecture) that config.json names; `UnsupportedModelError` lists the known ones if none fits.

    The first known name in `architectures` decides; a file without that key is taken by its `model_type`.
    """
    named = fields.strings("architectures")
    for architecture in named:
        if architecture in _known():
            return _known()[architecture], architecture
    model_type = fields.string("model_type", None)
    if not named:
        for family in families():
            if family.name == model_type:
                return family, family.architectures[0]
    if not named and model_type is None:
        raise CheckpointError(f"{fields.source}: architectures is missing, so the kind of model is unknown")
    raise UnsupportedModelError(
        f"unknown architecture {', '.join(named) or model_type}; Eventide has {', '.join(architectures())}"
    )


def family_of(config: ModelConfig) -> type[ModelFamily]:
    """The family of a parsed configuration."""
    return _known()[config.architecture]


def load_config(directory: Path) -> ModelConfig:
    """Read and check `directory`/config.json."""
    fields = read_json(directory / "config.json")
    family, architecture = find_family(fields)
    return family.parse_config(fields, architecture)
