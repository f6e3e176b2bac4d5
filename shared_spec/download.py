"""Weights that lie elsewhere: on the Hugging Face Hub, or under a URL such as torchvision's.

The hub's own client does what it does for everybody: its cache, token, endpoint, progress bars and
offline mode (`HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`). Files from URLs are kept in
`$RESNET_PARITY_CACHE`, else `$XDG_CACHE_HOME/resnet-parity`, else `~/.cache/resnet-parity`.
`RESNET_PARITY_OFFLINE=1` asks both for cached files alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from shared_spec.atomic_write import durable
from shared_spec.catalogue.pretrained import published_at, torchvision_weights
from shared_spec.errors import WeightsError, framework_missing
from shared_spec.formats.containers.sharded import shards_of
from shared_spec.formats.detect import FOLDER_WEIGHTS

ProgressLike = Callable[[int, int | None], None]
"""Told how many bytes have come, and of how many, if the server says so."""

SUFFIXES = (
    ".safetensors", ".pth", ".pt", ".bin", ".keras", ".weights.h5", ".h5", ".msgpack", ".npz",
)  # fmt: skip
"""Of files that a URL may name."""

_HUB = ("hf-hub:", "hf_hub:", "hf://")
_TORCHVISION, _KAGGLE = "torchvision:", "kaggle:"
_ACCEPTED = "'hf-hub:owner/name', 'torchvision:resnet50' or an http(s) URL"
_CONFIG, _PROCESSOR = "config.json", "preprocessor_config.json"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
"""`owner/name` on the hub."""
# What git allows in the name of a branch or a tag, as far as it can lead to another file.
_REVISION = re.compile(r"(?!/|\.)(?!.*(?:\.\.|//|/\.|@))[^\s\\~^:?*\[\x00-\x1f]+(?<!/)")
_FILE = re.compile(r"[^/\\\x00-\x1f\x7f]{1,200}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# torchvision's and timm's names end in the start of the file's SHA-256; eight digits that are a day
# are taken for a date.
_NAMED_HASH = re.compile(
    r"-(?!(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\.)([0-9a-f]{8,64})\.[a-z0-9.]+$"
)
_ADVICE = "`resnet-parity download` fills the cache where there is a network"
_UNREACHABLE = f"the hub cannot be reached, and the cache lacks a file; {_ADVICE}"
_TIMEOUT = 30.0
"""Seconds that a server may be silent."""
_CHUNK = 2**20


def is_reference(weights: object) -> bool:
    """Whether `weights` says where weights lie elsewhere, and is no path: something for `download`,
    which refuses it if it cannot be fetched.
    """
    if not isinstance(weights, str):
        return False
    known = weights.startswith((*_HUB, _TORCHVISION, _KAGGLE))
    return known or re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", weights) is not None


def download(
    reference: str,
    folder: str | os.PathLike[str] | None = None,
    progress: ProgressLike | None = None,
) -> Path:
    """Fetch weights, or find them in the cache.

    Args:
        reference: one of

            - `hf-hub:owner/name` or `hf-hub:owner/name@revision` (also `hf_hub:` and `hf://`):
              the first of `model.safetensors`, `pytorch_model.bin` and `flax_model.msgpack` that a
              repository on the Hugging Face Hub has, one of the former in shards too, with its
              `config.json` and `preprocessor_config.json` if it has them;
            - `torchvision:resnet50` or `torchvision:ResNet50_Weights.IMAGENET1K_V1`;
            - `kaggle:owner/model/framework/variation/version`: KerasHub's presets, which the client
              `kagglehub` fetches;
            - an http(s) URL of a weights file. One that is cached is not looked for again.
        folder: in place of the cache.
        progress: called as bytes come from a URL; the hub's client shows its own bars.

    Returns:
        The file; for a repository that has a `config.json`, the directory that holds both.

    Raises:
        FrameworkError: if `huggingface_hub` or `kagglehub` is needed and not installed.
        WeightsError: if the reference is malformed, the file cannot be had, or its digest is not
            the one that the hub, the file's name or the publisher gives.
    """
    for prefix in _HUB:
        if reference.startswith(prefix):
            return _from_hub(reference, reference.removeprefix(prefix), folder)
    if reference.startswith(_TORCHVISION):
        return _from_url(torchvision_weights(reference).where, folder, progress)
    if reference.startswith(_KAGGLE):
        return _from_kaggle(reference)
    if re.match(r"https?://", reference, re.IGNORECASE):
        return _from_url(reference, folder, progress)
    raise WeightsError(f"{reference}: cannot be fetched; expected {_ACCEPTED}")


def cache_folder() -> Path:
    """Where files from URLs are kept."""
    named = os.environ.get("RESNET_PARITY_CACHE")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "resnet-parity"


def offline() -> str | None:
    """The variable that forbids to fetch, if one does."""
    for name in ("RESNET_PARITY_OFFLINE", "HF_HUB_OFFLINE"):
        if os.environ.get(name, "").strip().upper() in ("1", "ON", "YES", "TRUE"):
            return name
    return None


def _from_hub(reference: str, wanted: str, folder: str | os.PathLike[str] | None) -> Path:
    name, at, revision = wanted.partition("@")
    if not REPOSITORY.fullmatch(name) or (at and not _REVISION.fullmatch(revision)):
        raise WeightsError(
            f"{reference}: expected 'hf-hub:owner/name' or 'hf-hub:owner/name@revision'"
        )
    repository = _Repository(reference, name, revision or None, folder)
    repository.settle((_CONFIG, *FOLDER_WEIGHTS))
    # Weights last: once they are cached, so is what belongs to them.
    config = repository.fetch(_CONFIG)
    repository.fetch(_PROCESSOR)
    for file in FOLDER_WEIGHTS:
        path = repository.fetch(file)
        if path is None:
            continue
        repository.check_hash(path)
        beside = config is not None and config.parent == path.parent
        if file.endswith(".index.json"):
            if not beside:
                raise repository.lacks(f"no {_CONFIG}, which belongs to {file},")
            for name in sorted(shards_of(path)):
                shard = repository.fetch(name)
                if shard is None:
                    raise repository.lacks(f"no {name}, which {file} names,")
                repository.check_hash(shard)
        return path.parent if beside else path
    raise repository.lacks(f"none of {', '.join(FOLDER_WEIGHTS)}")


class _Repository:
    """One revision of a repository on the hub; `local` if its cache alone is looked at."""

    def __init__(
        self, reference: str, name: str, revision: str | None, folder: str | os.PathLike[str] | None
    ) -> None:
        try:
            import huggingface_hub
        except ImportError:
            raise framework_missing("the Hugging Face Hub", "huggingface_hub", "hub") from None
        self._hub: Any = huggingface_hub
        self._reference, self._name, self._revision = reference, name, revision
        self._options: dict[str, Any] = {} if folder is None else {"cache_dir": folder}
        self._settled = False
        self.local = offline() is not None

    def settle(self, files: Sequence[str]) -> None:
        """Find the commit by a file that is cached: without one the client tries for long to reach
        a hub that cannot be reached.
        """
        for file in files:
            if isinstance(self._cached(file), str):
                self.fetch(file)
                return

    def fetch(self, file: str) -> Path | None:
        """The path of `file` in the cache, or None if the repository lacks it."""
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        absent = self._cached(file) is self._hub._CACHED_NO_EXIST
        if absent and (self.local or self._settled):
            return None
        try:
            found = self._hub.hf_hub_download(
                self._name, file, local_files_only=self.local, **self._where()
            )
        except LocalEntryNotFoundError as error:  # the hub is not to be reached, or cannot be
            if absent or self.local:
                return None
            raise self._failure(error) from None
        except EntryNotFoundError:
            return None
        # The client raises errors of its own, of its HTTP library's and of the system's.
        except Exception as error:
            raise self._failure(error) from None
        path = Path(found)
        # Later files are of the same commit, also if the branch moves meanwhile.
        self._revision, self._settled = path.parent.name, True
        return path

    def lacks(self, what: str) -> WeightsError:
        """What says that a file is not there."""
        variable = offline()
        where = "cache" if self.local else "repository"
        rule = f", and {variable} is set; {_ADVICE}" if variable else ""
        return _not_fetched(self._reference, f"{what} in the {where}{rule}")

    def _where(self) -> dict[str, Any]:
        return {"revision": self._revision, **self._options}

    def _cached(self, file: str) -> object:
        """A path, a mark that the repository is known to lack the file, or None."""
        try:
            return self._hub.try_to_load_from_cache(self._name, file, **self._where())
        except Exception as error:  # the client's, for a name that it does not take
            raise self._failure(error) from None

    def check_hash(self, path: Path) -> None:
        """Hold a file against the SHA-256 that the hub gives; its client only compares sizes.

        Raises:
            WeightsError: if they differ. The file is left: the cache is the client's.
        """
        told = self._etag(path)
        if told is None or not _SHA256.fullmatch(told):  # small files have git's hash
            return
        found = _digest(path)
        if found != told:
            raise WeightsError(
                f"{self._reference}: {path.name} in the cache has the SHA-256 {found[:8]}..., and "
                f"the hub's has {told[:8]}...; remove {path.resolve()} and fetch it again"
            )

    def _etag(self, path: Path) -> str | None:
        if path.is_symlink():  # the client names what it points to by it
            return Path(os.readlink(path)).name
        if self.local:
            return None
        try:
            url = self._hub.hf_hub_url(self._name, path.name, revision=self._revision)
            etag = self._hub.get_hf_file_metadata(url).etag
        except Exception:  # any of the client's: a cached file is used without a connection, too
            return None
        return etag if isinstance(etag, str) else None

    def _failure(self, error: Exception) -> WeightsError:
        from huggingface_hub import errors

        reasons = {
            errors.GatedRepoError: "the repository asks for its terms to be accepted on the hub",
            errors.RepositoryNotFoundError: "there is no such repository, or it needs a token",
            errors.RevisionNotFoundError: f"there is no revision {self._revision!r}",
            errors.LocalEntryNotFoundError: _UNREACHABLE,
        }
        told = next((text for kind, text in reasons.items() if isinstance(error, kind)), None)
        reason = told or first_line(error)
        return _not_fetched(self._reference, reason)


def _from_kaggle(reference: str) -> Path:
    """The directory of a version of a model on Kaggle, by its own client and in its cache."""
    handle = reference.removeprefix(_KAGGLE)
    if not re.fullmatch(r"(?:[A-Za-z0-9][\w.-]*/){4}\d+", handle, re.ASCII):
        raise WeightsError(
            f"{reference}: expected 'kaggle:owner/model/framework/variation/version'"
        )
    variable = offline()
    if variable:
        cache = os.environ.get("KAGGLEHUB_CACHE") or Path.home() / ".cache" / "kagglehub"
        found = Path(cache) / "models" / handle
        if found.with_name(f"{found.name}.complete").exists():  # the client's own mark
            return found
        raise _not_fetched(reference, f"it is not in {cache}, and {variable} is set")
    try:
        import kagglehub
    except ImportError:
        raise framework_missing("Kaggle", "kagglehub", "kaggle") from None
    # The client raises errors of its own, of its HTTP library's and of the system's.
    try:
        return Path(kagglehub.model_download(handle))
    except Exception as error:
        raise _not_fetched(reference, first_line(error)) from None


def _from_url(
    url: str, folder: str | os.PathLike[str] | None, progress: ProgressLike | None
) -> Path:
    parts = _split(url)
    shown = f"{parts.scheme}://{parts.hostname}{parts.path}"  # a query may hold a secret
    name = unquote(parts.path.rpartition("/")[2])
    if not _FILE.fullmatch(name) or not name.lower().endswith(SUFFIXES):
        raise WeightsError(
            f"{shown}: does not name a weights file; expected a URL that ends in one of "
            f"{', '.join(SUFFIXES)}"
        )
    # Other servers have other files of this name.
    key = hashlib.sha256(parts._replace(fragment="").geturl().encode()).hexdigest()[:16]
    target = (cache_folder() if folder is None else Path(folder)) / key / name
    algorithm, told = _told_hash(url, name)
    cached = target.is_file()
    if cached and _digest(target, algorithm).startswith(told):
        return target
    variable = offline()
    if variable:
        state = f"the cached {target} is damaged" if cached else "it is not in the cache"
        raise WeightsError(f"{shown}: {state}, and {variable} forbids fetching it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(f"{target.parent}: cannot be created ({error.strerror})") from None
    with durable(target) as draft:
        _stream(url, shown, draft, progress)
        found = _digest(draft, algorithm)
        if not found.startswith(told):
            whose = "its publisher's is" if published_at(url) else "its name says"
            raise WeightsError(
                f"{shown}: the file received has the {_HASHES[algorithm]} {found[:8]}..., and "
                f"{whose} {told}"
            )
    return target


_HASHES = {"sha256": "SHA-256", "md5": "MD5"}


def _told_hash(url: str, name: str) -> tuple[str, str]:
    """An algorithm, and how a file's digest has to begin by what its publisher or its name says."""
    known = published_at(url)
    if known is not None and known.hash is not None:
        algorithm, _, told = known.hash.partition(":")
        return algorithm, told
    named = _NAMED_HASH.search(name)
    return "sha256", named[1] if named else ""


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.hostname and parts.port != 0 and parts.username is None and url.isascii():
            return parts
    except ValueError:
        pass
    raise WeightsError(
        "the URL of the weights is malformed; expected 'https://host/path/file.pth', without a "
        "user name, and other than ASCII percent-encoded"
    )


def _opener() -> urllib.request.OpenerDirector:
    """urllib's, proxies included, without its handlers of `file:`, `ftp:` and `data:`."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _stream(url: str, shown: str, draft: Path, progress: ProgressLike | None) -> None:
    """Write what `url` gives to `draft`."""
    count = 0
    with contextlib.closing(_answer(url, shown)) as response, draft.open("xb") as file:
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        while True:
            try:
                chunk = response.read(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _not_fetched(shown, f"after {count} bytes: {first_line(error)}") from None
            if not chunk:
                break
            file.write(chunk)
            count += len(chunk)
            if progress is not None:
                progress(count, total)
    if not count or (total is not None and count != total):
        raise _not_fetched(shown, f"{count} of {total or 'unknown'} bytes came")


def _answer(url: str, shown: str) -> Any:
    try:
        response = _opener().open(url, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        raise _not_fetched(shown, f"the server answers {error.code} {error.reason}") from None
    # urllib lets errors of sockets, of http.client and of encodings through.
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise _not_fetched(shown, f"{first_line(reason)}; {_ADVICE}") from None
    if response.headers.get_content_type() == "text/html":
        response.close()
        raise _not_fetched(shown, "a web page came, and no weights")
    return response


def _not_fetched(what: str, reason: str) -> WeightsError:
    return WeightsError(f"{what}: cannot be fetched ({reason})")


def _digest(path: Path, algorithm: str = "sha256") -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from None


def first_line(reason: object) -> str:
    """The first line of an error's text, or its kind."""
    lines = str(reason).strip().splitlines()
    return lines[0] if lines else type(reason).__name__
