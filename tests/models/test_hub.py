"""Directories, bundled names and hub ids. The hub is a small HTTP server here, which speaks enough of its interface."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from eventide.errors import MissingDependencyError, MissingFileError, UsageError
from eventide.models.hub import BUNDLED, bundled_models, resolve
from tests.checkpoints import edit_json, make_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROGRAM = """
import sys
from eventide.errors import EventideError
from eventide.models.hub import resolve
try:
    print(resolve(sys.argv[1], weights=sys.argv[2] == "True", revision=sys.argv[3] or None))
except EventideError as error:
    print(f"{type(error).__name__}: {error}")
"""


def etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


class Hub(BaseHTTPRequestHandler):
    """Serves `root`/<organization>/<name> as repositories; some names answer as the hub does when it refuses."""

    root: ClassVar[Path]
    asked: ClassVar[list[str]]
    refusals: ClassVar = {
        "org/gated": (403, "GatedRepo"),
        "org/broken": (500, ""),
    }

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        self.asked.append(self.path)
        if api := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/?]+))?(?:\?.*)?", self.path):
            repository, revision = api[1], api[2] or "main"
            directory = self.root / repository
            if repository in self.refusals:
                self.send(*self.refusals[repository])
            elif not directory.is_dir():
                self.send(404, "RepoNotFound")
            elif revision not in ("main", COMMIT):
                self.send(404, "RevisionNotFound")
            else:
                siblings = [{"rfilename": path.name} for path in sorted(directory.iterdir())]
                info = {"id": repository, "sha": COMMIT, "siblings": siblings, "private": False}
                self.send(200, "", json.dumps(info).encode(), body)
        elif tree := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/?]+(?:\?.*)?", self.path):
            paths = sorted((self.root / tree[1]).iterdir())
            files = [
                {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": etag(path.read_bytes())}
                for path in paths
            ]
            self.send(200, "", json.dumps(files).encode(), body)
        elif (file := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/([^/?]+)", self.path)) and (
            self.root / file[1] / file[2]
        ).is_file():
            self.send(200, "", (self.root / file[1] / file[2]).read_bytes(), body)
        else:
            self.send(404, "EntryNotFound")

    def send(self, status: int, code: str, content: bytes = b"", body: bool = True) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{etag(content)}"')
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    Hub.root, Hub.asked = tmp_path / "hub", []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def ask(
    endpoint: str, home: Path, name: str, *, weights: bool = True, revision: str = "", offline: bool = False
) -> str:
    # its own process, as huggingface_hub reads these variables when it is imported
    hub_free = {
        key: value for key, value in os.environ.items() if not key.startswith("HF_") and "PROXY" not in key.upper()
    }
    environ = {**hub_free, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(offline))}
    environ["HF_HUB_DISABLE_TELEMETRY"] = environ["HF_HUB_DISABLE_XET"] = "1"
    arguments = [sys.executable, "-c", PROGRAM, name, str(weights), revision]
    done = subprocess.run(arguments, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_directory(tmp_path: Path) -> None:
    assert resolve(tmp_path) == tmp_path
    assert resolve(str(tmp_path)) == tmp_path


def test_bundled_models() -> None:
    assert bundled_models() == tuple(
        sorted(path.name for path in BUNDLED.glob("*") if (path / "config.json").is_file())
    )
    for name in bundled_models():
        assert resolve(name) == BUNDLED / name


def test_nothing_of_that_name(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no model 'tinny': it is neither a directory nor a bundled model"):
        resolve("tinny")
    with pytest.raises(MissingFileError, match="neither a directory"):
        resolve(tmp_path / "absent")


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    with pytest.raises(UsageError, match="is a file; give the directory"):
        resolve(path)


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # what Python does when a package isn't there
    with pytest.raises(MissingDependencyError, match=r"pip install 'eventide\[hub\]'"):
        resolve("org/model")


def test_download_then_offline(hub: str, tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "hub" / "org" / "model", num_shards=2, tokenizer=True)
    found = Path(ask(hub, tmp_path / "home", "org/model"))
    assert {path.name: path.read_bytes() for path in found.iterdir()} == {
        path.name: path.read_bytes() for path in source.iterdir()
    }
    assert Path(ask("http://127.0.0.1:9", tmp_path / "home", "org/model", offline=True)) == found


def test_configuration_alone(hub: str, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "hub" / "org" / "model")
    found = Path(ask(hub, tmp_path / "home", "org/model", weights=False))
    assert (found / "config.json").is_file()
    assert not list(found.glob("*.safetensors"))


def test_unsupported_model_is_refused_before_its_weights(hub: str, tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "hub" / "org" / "model")
    edit_json(source / "config.json", architectures=["GPT2LMHeadModel"])
    assert ask(hub, tmp_path / "home", "org/model").startswith("UnsupportedModelError: unknown architecture GPT2")
    assert not [path for path in Hub.asked if "safetensors" in path]


REFUSED = {
    "not found": (
        "org/absent",
        "",
        "MissingFileError: no model 'org/absent': no such directory here, and the hub has no",
    ),
    "gated": ("org/gated", "", "CheckpointError: org/gated asks for its licence to be accepted"),
    "revision": ("org/model", "v9", "MissingFileError: org/model has no revision 'v9' on the hub"),
    "server error": ("org/broken", "", "CheckpointError: org/broken can't be fetched from the hub"),
    "not an id": ("org/a--b", "", "UsageError: org/a--b isn't a hub id"),
}


@pytest.mark.parametrize(("name", "revision", "expected"), REFUSED.values(), ids=REFUSED)
def test_refusals(hub: str, tmp_path: Path, name: str, revision: str, expected: str) -> None:
    make_checkpoint(tmp_path / "hub" / "org" / "model")
    assert ask(hub, tmp_path / "home", name, revision=revision).startswith(expected)


@pytest.mark.parametrize("offline", [True, False])
def test_unreachable_hub(tmp_path: Path, offline: bool) -> None:
    message = ask("http://127.0.0.1:9", tmp_path, "org/model", offline=offline)
    assert message.startswith("MissingFileError: org/model isn't in the hub's cache and the hub can't be reached")
