"""Weights from the hub, against a server on this machine that speaks its protocol."""

from __future__ import annotations

import hashlib
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared_spec import Checkpoint, compile_plan, digest, random_weights, write_safetensors
from shared_spec.errors import WeightsError
from shared_spec.hub import download
from tests.specs import SMALL

STATE = random_weights(compile_plan(SMALL), 11)
COMMIT = "0123456789abcdef0123456789abcdef01234567"

SCRIPT = """
import sys
from shared_spec import ResNetError, ResNetSpec, digest
import resnet_torch
from tests.specs import SMALL
try:
    model = resnet_torch.create_model(SMALL, weights=sys.argv[1])
    print(digest(resnet_torch.export_weights(model)))
except ResNetError as error:
    print("refused:", error)
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """The address of a server that has `me/net` with one file."""
    path = tmp_path / "served.safetensors"
    write_safetensors(path, Checkpoint(STATE, SMALL))
    content = path.read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, body: bool) -> None:
            known = self.path in (
                "/me/net/resolve/main/model.safetensors",
                "/me/net/resolve/v2/model.safetensors",
            )
            self.send_response(200 if known else 404)
            if known:
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
            else:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", str(len(content) if known else 0))
            self.end_headers()
            if body and known:
                self.wfile.write(content)

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def load(reference: str, hub: str, cache: Path, **extra: str) -> str:
    """What a fresh process prints for `create_model(weights=reference)`."""
    env = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(cache), **extra}
    env["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, reference],
        env=env, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_weights_come_from_the_hub_and_then_from_its_cache(hub: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert load("hf-hub:me/net", hub, cache) == digest(STATE)
    assert load("hf-hub:me/net@v2", hub, cache) == digest(STATE)
    nowhere = "http://127.0.0.1:9"
    assert load("hf-hub:me/net", nowhere, cache, HF_HUB_OFFLINE="1") == digest(STATE)


def test_what_the_hub_lacks_is_refused(hub: str, tmp_path: Path) -> None:
    message = load("hf-hub:me/other", hub, tmp_path / "cache")
    assert message.startswith("refused: hf-hub:me/other: cannot be fetched (")
    assert "\n" not in message
    offline = load("hf-hub:me/net", hub, tmp_path / "cache", HF_HUB_OFFLINE="1")
    assert offline.startswith("refused: hf-hub:me/net: cannot be fetched (")


@pytest.mark.parametrize("reference", ["hf-hub:", "hf-hub:net", "hf-hub:a/b/c", "hf-hub:/net"])
def test_a_malformed_reference_is_refused(reference: str) -> None:
    with pytest.raises(WeightsError, match="expected 'hf-hub:owner/name'"):
        download(reference)
