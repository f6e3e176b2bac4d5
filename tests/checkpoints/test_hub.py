"""Weights from the hub and from URLs, against servers on this machine that speak as they do."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from shared_spec import (
    CATALOGUE,
    Checkpoint,
    compile_plan,
    digest,
    random_weights,
    read_checkpoint,
    write_checkpoint,
    write_safetensors,
)
from shared_spec.catalogue.pretrained import imagenet_labels, published_at, torchvision_weights
from shared_spec.download import cache_folder, download, is_reference
from shared_spec.errors import WeightsError
from shared_spec.formats.detect import FOLDER_WEIGHTS
from shared_spec.formats.dialects import timm_torchvision
from tests.hub_server import COMMIT, Hub, served, serving
from tests.peers import torchvision_models
from tests.specs import SMALL

STATE = random_weights(compile_plan(SMALL), 11)
ADVICE = "`resnet-parity download` fills the cache where there is a network"
NOWHERE = "http://127.0.0.1:9"

LOAD = """
import sys
from shared_spec import ResNetError, digest
import resnet_torch
from tests.specs import SMALL
try:
    model = resnet_torch.create_model(SMALL, weights=sys.argv[1])
    print(digest(resnet_torch.export_weights(model)))
except ResNetError as error:
    print("refused:", error)
"""
FETCH = """
import sys
import time
from shared_spec.errors import ResNetError
from shared_spec.download import download
slept, time.sleep = [], lambda seconds: slept.append(seconds)  # between the client's attempts
try:
    print(download(sys.argv[1], *sys.argv[2:]))
    assert not slept
except ResNetError as error:
    print("refused:", error)
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub()) as found:
        yield found


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("weights") / "a.safetensors"
    write_safetensors(path, Checkpoint(STATE, SMALL))
    return path.read_bytes()


OTHER = "f" * 40


def fresh(
    reference: str, hub: str, cache: Path, *more: str, script: str = FETCH, **extra: str
) -> str:
    """What a process with an empty memory prints."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "RESNET_PARITY_"))}
    env |= {"HF_ENDPOINT": hub, "HF_HOME": str(cache), "NO_PROXY": "127.0.0.1,localhost", **extra}
    env["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script, reference, *more],
        env=env, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "\n" not in done.stdout.strip()
    return done.stdout.strip()


def test_a_model_gets_weights_of_the_hub_and_then_of_its_cache(
    hub: Hub, weights: bytes, tmp_path: Path
) -> None:
    hub.put("me/net", "main", COMMIT, model__safetensors=weights)
    cache = tmp_path / "cache"
    assert fresh("hf-hub:me/net", hub.url, cache, script=LOAD) == digest(STATE)
    offline = fresh("hf-hub:me/net", NOWHERE, cache, script=LOAD, HF_HUB_OFFLINE="1")
    assert offline == digest(STATE)


def test_a_repository_with_a_configuration_is_a_directory(hub: Hub, tmp_path: Path) -> None:
    hub.put("me/net", "main", COMMIT, model__safetensors=b"main", config__json=b"{}")
    hub.put(
        "me/net", "v/2", OTHER,
        pytorch_model__bin=b"old", config__json=b"{1}", preprocessor_config__json=b"{2}",
    )  # fmt: skip
    # The client asks for a branch's name with its slash quoted.
    hub.repositories["me/net"]["v%2F2"] = hub.repositories["me/net"]["v/2"]
    for prefix in ("hf-hub:", "hf_hub:", "hf://"):
        folder = Path(fresh(f"{prefix}me/net", hub.url, tmp_path))
        assert folder.name == COMMIT
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
            "config.json": b"{}",
            "model.safetensors": b"main",
        }
    folder = Path(fresh("hf-hub:me/net@v/2", hub.url, tmp_path))
    assert folder.name == OTHER
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        "config.json": b"{1}",
        "preprocessor_config.json": b"{2}",
        "pytorch_model.bin": b"old",
    }
    assert Path(fresh(f"hf-hub:me/net@{OTHER}", NOWHERE, tmp_path)) == folder


def test_a_repository_without_a_configuration_is_a_file(hub: Hub, tmp_path: Path) -> None:
    hub.put("me/net", "main", COMMIT, model__safetensors=b"content", pytorch_model__bin=b"x")
    path = Path(fresh("hf-hub:me/net", hub.url, tmp_path, str(tmp_path / "here")))
    assert path.name == "model.safetensors"
    assert path.read_bytes() == b"content"
    assert path.is_relative_to(tmp_path / "here")


def test_a_cached_repository_needs_no_hub(hub: Hub, tmp_path: Path) -> None:
    hub.put("me/net", "main", COMMIT, pytorch_model__bin=b"content", config__json=b"{}")
    folder = fresh("hf-hub:me/net", hub.url, tmp_path)
    hub.asked.clear()
    assert fresh("hf-hub:me/net", hub.url, tmp_path) == folder
    assert hub.asked == ["HEAD /me/net/resolve/main/config.json"]
    for extra in ({}, {"HF_HUB_OFFLINE": "1"}, {"RESNET_PARITY_OFFLINE": "yes"}):
        assert fresh("hf-hub:me/net", NOWHERE, tmp_path, **extra) == folder


INDEX = "model.safetensors.index.json"


def test_shards_come_with_their_index(hub: Hub, tmp_path: Path) -> None:
    """As transformers saves a net of timm's."""
    torchvision_models()
    import transformers

    config = transformers.TimmWrapperConfig(architecture="test_resnet", num_labels=3)
    model = transformers.TimmWrapperForImageClassification(config)
    model.save_pretrained(tmp_path / "a", max_shard_size="400KB")
    hub.put("me/net", "main", COMMIT)
    hub.repositories["me/net"]["main"][1].update(
        {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    )
    cache = tmp_path / "cache"
    folder = Path(fresh("hf-hub:me/net", hub.url, cache))
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2
    assert digest(read_checkpoint(folder).state) == digest(read_checkpoint(tmp_path / "a").state)
    assert Path(fresh("hf-hub:me/net", NOWHERE, cache, HF_HUB_OFFLINE="1")) == folder
    last = max(folder.glob("model-*-of-*.safetensors"))
    told = hub.stored[last.readlink().name]
    last.resolve().write_bytes(told[:-1] + bytes([told[-1] ^ 1]))
    assert f"{last.name} in the cache has the SHA-256" in fresh("hf-hub:me/net", NOWHERE, cache)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"a": "model-1.safetensors"}, "(no model-1.safetensors, which model.safetensors.index"),
        ({"a": "../model-1.safetensors"}, "expected the name of a .safetensors file beside it"),
        ({"a": "config.json"}, "expected the name of a .safetensors file beside it"),
        ({}, "expected a mapping of arrays to files under 'weight_map'"),
    ],
)
def test_an_index_that_is_not_true_is_refused(
    hub: Hub, tmp_path: Path, index: dict[str, str], message: str
) -> None:
    files = {"config.json": b"{}", INDEX: json.dumps({"weight_map": index}).encode()}
    hub.put("me/net", "main", COMMIT)
    hub.repositories["me/net"]["main"][1].update(files)
    assert message in fresh("hf-hub:me/net", hub.url, tmp_path)
    asked = {line.partition(f"/{COMMIT}/")[2] for line in hub.asked}
    assert asked - {""} <= {"preprocessor_config.json", *FOLDER_WEIGHTS, *index.values()}
    assert "../model-1.safetensors" not in asked


def test_shards_without_a_configuration_are_refused(hub: Hub, tmp_path: Path) -> None:
    hub.put("me/net", "main", COMMIT)
    hub.repositories["me/net"]["main"][1][INDEX] = b"{}"
    message = f"no config.json, which belongs to {INDEX}, in the repository"
    assert message in fresh("hf-hub:me/net", hub.url, tmp_path)


def test_flax_models_come_where_there_is_nothing_else(hub: Hub, tmp_path: Path) -> None:
    hub.put("me/net", "main", COMMIT, flax_model__msgpack=b"content", config__json=b"{}")
    folder = Path(fresh("hf-hub:me/net", hub.url, tmp_path))
    assert (folder / "flax_model.msgpack").read_bytes() == b"content"


def test_files_are_of_one_commit_though_the_branch_moves(hub: Hub, tmp_path: Path) -> None:
    hub.put("me/net", "main", COMMIT, model__safetensors=b"old", config__json=b"{}")

    def push() -> None:
        hub.put("me/net", "main", OTHER, model__safetensors=b"new", config__json=b"{1}")

    hub.then["GET /me/net/resolve/main/config.json"] = push
    folder = Path(fresh("hf-hub:me/net", hub.url, tmp_path))
    assert (folder.name, (folder / "model.safetensors").read_bytes()) == (COMMIT, b"old")


@pytest.mark.parametrize("links", [True, False])
def test_what_the_hub_sends_is_held_against_its_hash(hub: Hub, tmp_path: Path, links: bool) -> None:
    hub.put("me/net", "main", COMMIT, model__safetensors=b"content")
    told = hashlib.sha256(b"content").hexdigest()
    hub.stored[told] = b"CONTENT"
    extra = {} if links else {"HF_HUB_DISABLE_SYMLINKS": "1"}
    for _ in range(2):  # the cache has it the second time
        message = fresh("hf-hub:me/net", hub.url, tmp_path, **extra)
        found = hashlib.sha256(b"CONTENT").hexdigest()
        assert message.startswith(
            f"refused: hf-hub:me/net: model.safetensors in the cache has the SHA-256 {found[:8]}..."
        )
        assert told[:8] in message


def test_what_the_hub_lacks_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.put("me/net", "main", COMMIT, model__safetensors=b"content", config__json=b"{}")
    hub.put("me/empty", "main", COMMIT, config__json=b"{}")
    hub.put("me/gated", "main", COMMIT)
    hub.gated.add("me/gated")
    hub.put("me/short", "main", COMMIT, model__safetensors=b"content, truncated")
    hub.stored[hashlib.sha256(b"content, truncated").hexdigest()] = b"content"
    expected = {
        "me/other": "there is no such repository, or it needs a token",
        "me/net@v3": "there is no revision 'v3'",
        "me/empty": f"none of {', '.join(FOLDER_WEIGHTS)} in the repository)",
        "me/gated": "the repository asks for its terms to be accepted on the hub",
        "me/short": "Consistency check failed: file should be of size 18 but has size 7 (",
        "a--b/c": "Cannot have -- or .. in repo_id: 'a--b/c'.",
    }
    for reference, reason in expected.items():
        message = fresh(f"hf-hub:{reference}", hub.url, tmp_path)
        assert message.startswith(f"refused: hf-hub:{reference}: cannot be fetched ({reason}")
    hub.asked.clear()
    for variable in ("HF_HUB_OFFLINE", "RESNET_PARITY_OFFLINE"):
        assert fresh("hf-hub:me/net", hub.url, tmp_path / "empty", **{variable: "1"}) == (
            f"refused: hf-hub:me/net: cannot be fetched (none of {', '.join(FOLDER_WEIGHTS)} in "
            f"the cache, and {variable} is set; {ADVICE})"
        )
    assert hub.asked == []


def test_a_hub_that_is_not_reached_is_not_a_repository_that_lacks_files(
    hub: Hub, tmp_path: Path
) -> None:
    hub.put("me/net", "main", COMMIT, model__safetensors=b"content")
    path = fresh("hf-hub:me/net", hub.url, tmp_path)
    assert fresh("hf-hub:me/net", NOWHERE, tmp_path) == path
    message = fresh("hf-hub:me/net", NOWHERE, tmp_path / "empty")
    assert message == (
        "refused: hf-hub:me/net: cannot be fetched (the hub cannot be reached, and the cache lacks "
        f"a file; {ADVICE})"
    )


@pytest.mark.parametrize(
    "wanted",
    ["", "net", "a/b/c", "/net", "a/", "a/b@", "a/b@../c", "a/b@/c", "a/b@c d", "a/b@c@d", "a/..",
     "a b/c", "a/b\n"],
)  # fmt: skip
def test_a_malformed_reference_is_refused(wanted: str) -> None:
    for prefix in ("hf-hub:", "hf_hub:", "hf://"):
        with pytest.raises(WeightsError, match="expected 'hf-hub:owner/name'"):
            download(prefix + wanted)


CONTENT = b"the content of a file of weights" * 99
HASH = hashlib.sha256(CONTENT).hexdigest()
Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Site:
    """A server of files: an answer for each path."""

    url: str = ""
    answers: dict[str, Callable[[], Answer]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def put(self, path: str, content: bytes = CONTENT, status: int = 200, **headers: str) -> str:
        told = {key.replace("_", "-"): value for key, value in headers.items()}
        told.setdefault("Content-Length", str(len(content)))
        self.answers[path] = lambda: (status, told, content)
        return self.url + path


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HF_HUB_OFFLINE", "RESNET_PARITY_OFFLINE", "RESNET_PARITY_CACHE"):
        monkeypatch.delenv(name, raising=False)

    class Serving(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.path)
            status, headers, content = site.answers.get(self.path, lambda: (404, {}, b""))()
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    with served(Serving) as url:
        site.url = url
        yield site


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_url_is_fetched_once(site: Site, tmp_path: Path) -> None:
    url = site.put(f"/models/net-{HASH[:8]}.pth")
    told: list[tuple[int, int | None]] = []
    path = download(url, tmp_path, lambda done, total: told.append((done, total)))
    assert path.name == f"net-{HASH[:8]}.pth"
    assert path.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert download(url, tmp_path) == path
    assert len(site.asked) == 1
    assert files(tmp_path) == [path]
    # The same name elsewhere is another file.
    elsewhere = download(site.put("/other/a.pth", b"1"), tmp_path)
    assert download(site.put("/another/a.pth", b"2"), tmp_path) != elsewhere
    assert elsewhere.read_bytes() == b"1"


def test_the_cache_is_where_the_environment_says(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "resnet-parity"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "resnet-parity"
    monkeypatch.setenv("RESNET_PARITY_CACHE", str(tmp_path / "named"))
    assert download(site.put("/a.pth")).is_relative_to(tmp_path / "named")


def test_offline_a_url_comes_from_the_cache_alone(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = site.put(f"/net-{HASH[:8]}.pth")
    path = download(url, tmp_path)
    for name in ("HF_HUB_OFFLINE", "RESNET_PARITY_OFFLINE"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "1")
            assert download(url, tmp_path) == path
            with pytest.raises(WeightsError, match=f"not in the cache, and {name} forbids"):
                download(site.put("/other.pth"), tmp_path)
    path.write_bytes(b"damaged")
    monkeypatch.setenv("RESNET_PARITY_OFFLINE", "1")
    with pytest.raises(WeightsError, match="is damaged, and RESNET_PARITY_OFFLINE forbids"):
        download(url, tmp_path)
    assert len(site.asked) == 1
    monkeypatch.delenv("RESNET_PARITY_OFFLINE")
    assert download(url, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["net-01234567.pth", f"net-{'0' * 64}.weights.h5"])
def test_a_file_is_held_against_the_hash_in_its_name(site: Site, tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match=f"the SHA-256 {HASH[:8]}..., and its name says 0"):
        download(site.put(f"/{name}"), tmp_path)
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", ["net-20240131.pth", "net-abcdefg1.pth", "net-1234567.pth"])
def test_a_name_that_ends_otherwise_tells_no_hash(site: Site, tmp_path: Path, name: str) -> None:
    assert download(site.put(f"/{name}"), tmp_path).name == name


def test_what_does_not_come_whole_is_refused(site: Site, tmp_path: Path) -> None:
    missing = site.url + "/missing.pth"
    short = site.put("/short.pth", Content_Length=str(len(CONTENT) + 1))
    chunked = site.put("/chunked.pth", b"5\r\nabc", Transfer_Encoding="chunked", Content_Length="")
    empty = site.put("/empty.pth", b"")
    page = site.put("/page.pth", Content_Type="text/html; charset=utf-8")
    broken = site.put("/broken.pth", status=503)
    refused = {
        missing: r"cannot be fetched \(the server answers 404 Not Found\)",
        short: rf"cannot be fetched \({len(CONTENT)} of {len(CONTENT) + 1} bytes came\)",
        chunked: r"cannot be fetched \(after 0 bytes: IncompleteRead",
        empty: r"cannot be fetched \(0 of unknown bytes came\)",
        page: r"cannot be fetched \(a web page came, and no weights\)",
        broken: r"cannot be fetched \(the server answers 503 Service Unavailable\)",
        f"{NOWHERE}/a.pth": r"cannot be fetched \(.*[Rr]efused",
        f"http://{'a' * 64}.invalid/a.pth": r"cannot be fetched \(",
    }
    for url, message in refused.items():
        with pytest.raises(WeightsError, match=message) as caught:
            download(url, tmp_path)
        assert "\n" not in str(caught.value)
        assert files(tmp_path) == []


def test_redirects_lead_to_http_alone(site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "secret.pth"
    secret.write_bytes(CONTENT)
    there = site.put("/there.pth")
    assert download(site.put("/moved.pth", b"", 302, Location=there), tmp_path / "cache")
    refused = {
        secret.as_uri(): "Redirection to url .* is not allowed",
        "data:,abc": "Redirection to url .* is not allowed",
        "ftp://127.0.0.1/a.pth": "unknown url type: ftp",
    }
    for target, message in refused.items():
        url = site.put("/away.pth", b"", 302, Location=target)
        with pytest.raises(WeightsError, match=message):
            download(url, tmp_path / "cache")


@pytest.mark.parametrize(
    "url",
    ["http://", "http:///a.pth", "http://h:x/a.pth", "http://[::/a.pth", "http://h:0/a.pth",
     "http://u:secret@h/a.pth", "https://h/ä.pth"],
)  # fmt: skip
def test_a_malformed_url_is_refused(url: str) -> None:
    with pytest.raises(WeightsError, match="the URL of the weights is malformed") as caught:
        download(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "end", ["", "a.txt", "a.pth/", "..%2Fa.pth", "%00.pth", "a" * 300 + ".pth"]
)
def test_a_url_that_names_no_weights_is_refused(end: str) -> None:
    with pytest.raises(WeightsError, match="does not name a weights file") as caught:
        download(f"http://127.0.0.1/x/{end}?token=secret")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("reference", ["file:///a.pth", "ftp://h/a.pth", "data:,a.pth", "a.pth"])
def test_other_schemes_are_refused(reference: str) -> None:
    with pytest.raises(WeightsError, match="expected 'hf-hub:owner/name', 'torchvision:resnet50'"):
        download(reference)


def test_references_are_told_from_paths() -> None:
    for reference in ("hf-hub:x", "hf_hub:x", "hf://x", "torchvision:x", "https://x", "ftp://x"):
        assert is_reference(reference)
    for path in ("a.pth", "C://a.pth", "./hf-hub/a", Path("a"), None, {"a": 1}):
        assert not is_reference(path)


def enums() -> Iterator[tuple[str, Any]]:
    """torchvision's own records of its ResNets: their nets and enums."""
    models = torchvision_models()
    for name, entry in CATALOGUE.items():
        if entry.family == "torchvision":
            yield name, models.get_model_weights(name)


def test_the_table_of_torchvision_is_torchvisions() -> None:
    names = 0
    for model, enum in enums():
        assert torchvision_weights(f"torchvision:{model}").where == enum.DEFAULT.url
        for member in (*enum, enum.DEFAULT):
            found = torchvision_weights(str(member))
            theirs = member.transforms()
            assert (found.tag, found.where, found.model) == (member.name, member.url, model)
            assert published_at(member.url) == found
            ours = found.preprocessing
            assert [ours.image_size] == theirs.crop_size
            assert [ours.shorter_side] == theirs.resize_size
            assert ours.interpolation == theirs.interpolation.value
            assert (list(ours.mean), list(ours.std)) == (theirs.mean, theirs.std)
            names += 1
        assert torchvision_weights(f"{enum.__name__}.DEFAULT").where == enum.DEFAULT.url
    assert names == 27
    assert published_at("https://example.com/a.pth") is None


def test_unknown_weights_of_torchvision_are_refused() -> None:
    with pytest.raises(WeightsError, match="no ResNet weights named 'resnet51'; did you mean 'res"):
        download("torchvision:resnet51")
    with pytest.raises(WeightsError, match="no ResNet weights named ''; expected a name such as"):
        download("torchvision:")


def test_a_name_of_torchvision_stands_for_its_url(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNET_PARITY_OFFLINE", "1")
    url = "https://download.pytorch.org/models/resnet50-11ad3fa6.pth"
    with pytest.raises(WeightsError, match=f"^{url}: it is not in the cache"):
        download("torchvision:ResNet50_Weights.IMAGENET1K_V2", tmp_path)


def converted(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "resnet_parity", "convert", *arguments, "--no-verify", "--json"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_repository_of_timm_is_converted_with_its_net_and_labels(
    hub: Hub, tmp_path: Path
) -> None:
    spec = CATALOGUE["resnet18"].spec.override(num_classes=3, image_size=64)
    state = random_weights(compile_plan(spec), 2)
    write_safetensors(tmp_path / "a.safetensors", Checkpoint(state))
    config = {
        "architecture": "resnet18",
        "num_classes": 3,
        "pretrained_cfg": {
            "input_size": [3, 64, 64],
            "interpolation": "bicubic",
            "crop_pct": 0.95,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.2, 0.2, 0.2],
            "label_names": ["n1", "n2", "n3"],
        },
    }
    hub.put(
        "timm/resnet18.test",
        "main",
        COMMIT,
        model__safetensors=(tmp_path / "a.safetensors").read_bytes(),
        config__json=json.dumps(config).encode(),
    )
    target = tmp_path / "b.safetensors"
    done = converted(
        "hf-hub:timm/resnet18.test", str(target), HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "hf")
    )
    assert done.returncode == 0, done.stderr
    found = read_checkpoint(target)
    assert found.spec == spec
    assert digest(found.state) == digest(state)
    assert found.labels == ("n1", "n2", "n3")
    assert found.preprocessing is not None
    assert (found.preprocessing.image_size, found.preprocessing.shorter_side) == (64, 67)


def test_torchvisions_file_tells_its_net_by_its_hash(tmp_path: Path) -> None:
    """By names and shapes alone it would be one of four."""
    spec = CATALOGUE["resnet18"].spec
    path = tmp_path / "net-f37072fd.pth"
    write_checkpoint(path, Checkpoint(random_weights(compile_plan(spec)), spec))
    with pytest.raises(WeightsError, match=r"fit resnet18, .*flax_resnet18.*name the one"):
        read_checkpoint(path)
    real = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    known = torchvision_weights("resnet18")
    url = known.where.replace("resnet18-f37072fd", f"net-{real}")
    timm_torchvision.published_at, kept = (
        lambda asked: replace(known, where=url) if asked == url else None,
        timm_torchvision.published_at,
    )
    try:
        path = path.rename(tmp_path / f"net-{real}.pth")
        found = read_checkpoint(path)
    finally:
        timm_torchvision.published_at = kept
    assert found.spec == spec
    assert found.preprocessing == known.preprocessing
    assert found.labels == imagenet_labels()
