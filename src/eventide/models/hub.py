"""From what a user calls a model to a directory: a path, a bundled model's name, or a Hugging Face hub id.

    resolve("./my-checkpoint")            the directory itself
    resolve("tiny")                       src/eventide/models/bundled/tiny, which comes with the package
    resolve("Qwen/Qwen3-0.6B")            downloaded once into the hub's own cache, then found there

From the hub, the small files come first: a model that Eventide can't run is refused before gigabytes are fetched.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from eventide.errors import CheckpointError, MissingDependencyError, MissingFileError, UsageError
from eventide.models.registry import load_config

__all__ = ["bundled_models", "resolve"]

BUNDLED = Path(__file__).parent / "bundled"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SMALL_FILES = ("*.json", "*.jinja")
_WEIGHTS = ("*.safetensors",)


def bundled_models() -> tuple[str, ...]:
    """Names of the models that come with the package, sorted."""
    return tuple(sorted(path.parent.name for path in BUNDLED.glob("*/config.json")))


def resolve(model: str | Path, *, weights: bool = True, revision: str | None = None) -> Path:
    """The checkpoint directory of `model`. An existing directory wins over a bundled name, and that over a hub id.

    `weights` False fetches no weights from the hub (for ``load_format="dummy"``); `revision` is a branch, tag or commit
    there. Raises `MissingFileError` (nothing of that name), `UsageError` (a file instead of a directory),
    `MissingDependencyError` (huggingface_hub isn't installed) and `CheckpointError` (the hub refused or isn't reached).
    """
    name = str(model)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name in bundled_models():
        return BUNDLED / name
    if path.exists():
        raise UsageError(
            f"{name} is a file; give the directory that holds it, with config.json and *.safetensors files"
        )
    if isinstance(model, Path) or not _HUB_ID.fullmatch(name):
        raise MissingFileError(
            f"no model {name!r}: it is neither a directory nor a bundled model "
            f"({', '.join(bundled_models()) or 'none'}), and a hub id has the form organization/name"
        )
    return _download(name, weights, revision)


def _download(repository: str, weights: bool, revision: str | None) -> Path:
    try:
        import huggingface_hub
    except ImportError:
        raise MissingDependencyError(
            f"no directory {repository}; to fetch it from the Hugging Face hub, install huggingface_hub "
            "(pip install 'eventide[hub]')"
        ) from None

    def fetch(*patterns: str) -> Path:
        found: Any = huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(patterns))
        return Path(found)

    try:
        directory = fetch(*_SMALL_FILES)
        load_config(directory)
        return fetch(*_SMALL_FILES, *_WEIGHTS) if weights else directory
    except (huggingface_hub.errors.HfHubHTTPError, huggingface_hub.errors.LocalEntryNotFoundError, OSError) as error:
        raise _refusal(repository, revision, error) from None
    except huggingface_hub.errors.HFValidationError as error:
        raise UsageError(f"{repository} isn't a hub id: {_first_line(error)}") from None


def _refusal(repository: str, revision: str | None, error: Exception) -> CheckpointError:
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, errors.HfHubHTTPError):
        # the hub did answer; the cause says what
        error = error.__cause__
    if isinstance(error, errors.GatedRepoError):
        return CheckpointError(
            f"{repository} asks for its licence to be accepted: do so on its hub page, then log in with `hf auth login`"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return MissingFileError(f"{repository} has no revision {revision!r} on the hub")
    if isinstance(error, errors.RepositoryNotFoundError):
        return MissingFileError(
            f"no model {repository!r}: no such directory here, and the hub has no public model of that name "
            "(for a private one, log in with `hf auth login`)"
        )
    if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        return MissingFileError(
            f"{repository} isn't in the hub's cache and the hub can't be reached (HF_HUB_OFFLINE, or no connection); "
            "connect once, or give a local directory"
        )
    return CheckpointError(f"{repository} can't be fetched from the hub: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
