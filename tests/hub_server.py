"""A server on this machine that speaks as the Hugging Face Hub does."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Handler = type[http.server.BaseHTTPRequestHandler]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def served(handler: Handler) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Hub:
    """Repositories by name and revision: a commit, and its files."""

    url: str = ""
    repositories: dict[str, dict[str, tuple[str, dict[str, bytes]]]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    large: tuple[str, ...] = (".safetensors", ".bin")
    """Suffixes of files that lie in LFS: their hash is the SHA-256, and they are redirected to."""
    stored: dict[str, bytes] = field(default_factory=dict)
    """What LFS gives for a hash, if not the file."""
    asked: list[str] = field(default_factory=list)
    then: dict[str, Callable[[], None]] = field(default_factory=dict)
    """What happens after a request."""

    def put(self, name: str, revision: str, commit: str, **files: bytes) -> None:
        named = {key.replace("__", "."): content for key, content in files.items()}
        self.repositories.setdefault(name, {})[revision] = commit, named
        self.repositories[name][commit] = commit, named


def answer(hub: Hub, path: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of huggingface.co for a file."""
    if path.startswith("/lfs/"):
        content = hub.stored[path.removeprefix("/lfs/")]
        return 200, {"Content-Length": str(len(content))}, content
    if path.startswith("/api/models/") and "/tree/" in path:
        _, _, owner, name, _, revision = path.partition("?")[0].strip("/").split("/")
        _, files = hub.repositories[f"{owner}/{name}"].get(revision, ("", {}))
        listed = [
            {"type": "file", "path": path, "size": len(content), "oid": "0" * 40}
            for path, content in files.items()
        ]
        content = json.dumps(listed).encode()
        kind = "application/json"
        return 200, {"Content-Length": str(len(content)), "Content-Type": kind}, content
    if "/resolve/" not in path:
        return 404, {}, b""
    owner, name, _, revision, file = path.strip("/").split("/", 4)
    known = hub.repositories.get(f"{owner}/{name}")
    if known is None:
        return 401, {"X-Error-Code": "RepoNotFound"}, b""
    if f"{owner}/{name}" in hub.gated:
        return 403, {"X-Error-Code": "GatedRepo"}, b""
    if revision not in known:
        return 404, {"X-Error-Code": "RevisionNotFound"}, b""
    commit, files = known[revision]
    headers = {"X-Repo-Commit": commit}
    if file not in files:
        return 404, headers | {"X-Error-Code": "EntryNotFound"}, b""
    content = files[file]
    if not file.endswith(hub.large):
        blob = b"blob %d\0" % len(content) + content
        etag = hashlib.sha1(blob).hexdigest()  # noqa: S324 (git's own)
        return 200, headers | {"ETag": f'"{etag}"', "Content-Length": str(len(content))}, content
    etag = hashlib.sha256(content).hexdigest()
    hub.stored.setdefault(etag, content)
    headers |= {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{etag}"'}
    elsewhere = hub.url.replace(
        "127.0.0.1", "localhost"
    )  # the client looks at such a one's headers
    return 302, headers | {"Location": f"{elsewhere}/lfs/{etag}"}, b""


def written(hub: Hub, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body for a request that writes: repositories, and commits of files that
    are sent with the commit.
    """
    asked = path.strip("/").split("/")
    found: object = {}
    if path == "/api/repos/create":
        told = json.loads(body)
        name = (
            f"{told['organization']}/{told['name']}" if told.get("organization") else told["name"]
        )
        if name.startswith("other/"):
            return 403, {"X-Error-Message": "you may not write there"}, b"{}"
        hub.repositories.setdefault(name, {})
        found = {"url": f"{hub.url}/{name}", "id": name}
    elif asked[4:5] == ["preupload"]:
        files = json.loads(body)["files"]
        found = {"files": [{**f, "uploadMode": "regular", "shouldIgnore": False} for f in files]}
    elif asked[4:5] == ["commit"]:
        lines = [json.loads(line) for line in body.splitlines()]
        files = {
            x["value"]["path"]: base64.b64decode(x["value"]["content"])
            for x in lines
            if x["key"] == "file"
        }
        repository = hub.repositories[f"{asked[2]}/{asked[3]}"]
        _, before = repository.get(asked[5], ("", {}))
        gone = {x["value"]["path"] for x in lines if x["key"] == "deletedFile"}
        files = {k: v for k, v in before.items() if k not in gone} | files
        repository[asked[5]] = repository[COMMIT] = COMMIT, files
        url = f"{hub.url}/{asked[2]}/{asked[3]}/commit/{COMMIT}"
        found = {"commitUrl": url, "commitOid": COMMIT, "success": True}
    content = json.dumps(found).encode()
    headers = {"Content-Length": str(len(content)), "Content-Type": "application/json"}
    return 200, headers, content


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve a hub; its `url` is then known."""

    class Speaking(http.server.BaseHTTPRequestHandler):
        def reply(self, body: bool) -> None:
            asked = f"{self.command} {self.path}"
            if "/api/" not in asked:  # what the client wants to know about itself
                hub.asked.append(asked)
            status, headers, content = answer(hub, self.path)
            hub.then.pop(asked, lambda: None)()
            self.send_response(status)
            for key, value in ({"Content-Length": "0"} | headers).items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def do_HEAD(self) -> None:
            self.reply(body=False)

        def do_GET(self) -> None:
            self.reply(body=True)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, headers, content = written(hub, self.path, body)
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    with served(Speaking) as url:
        hub.url = url
        yield hub
