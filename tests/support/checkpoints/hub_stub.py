"""A Hub on this machine that answers as the real one does, for what only a download shows."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from huggingface_hub import close_session

COMMIT = "d" * 40


@dataclass(frozen=True, kw_only=True)
class Repository:
    """What the Hub says of a name.

    Attributes:
        commits: Files by path, of each commit.
        refs: Commits of branches and tags.
        denied: With which status files are refused, as of a gated repository: 401 where nobody is
            logged in, 403 where somebody is who may not read it.
        moved_to: Its new name, to which every request is sent on.
    """

    commits: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    refs: Mapping[str, str] = field(default_factory=dict)
    denied: Literal[0, 401, 403] = 0
    moved_to: str = ""

    def commit(self, revision: str) -> str | None:
        """The commit of a branch, a tag, or a hash that may be cut short."""
        known = [commit for commit in self.commits if commit.startswith(revision)]
        return self.refs.get(revision) or (known[0] if len(revision) >= 7 and known else None)


@contextmanager
def dataset_hub(repository: str, files: Mapping[str, bytes]) -> Iterator[str]:
    """Serve a data set; yields the address for ``HF_ENDPOINT``."""
    repositories = {repository: Repository(commits={COMMIT: files}, refs={"main": COMMIT})}
    with _serving("datasets", repositories) as (address, _):
        yield address


@contextmanager
def model_hub(repositories: Mapping[str, Repository]) -> Iterator[tuple[str, list[str]]]:
    """Serve models; yields the address for ``HF_ENDPOINT`` and the paths that are asked for."""
    with _serving("models", repositories) as server:
        yield server


@contextmanager
def _serving(kind: str, repositories: Mapping[str, Repository]) -> Iterator[tuple[str, list[str]]]:
    class Handler(_Handler):
        pass

    Handler.kind, Handler.repositories, Handler.asked = kind, repositories, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", Handler.asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        close_session()  # its open connections would meet the next server at the same port


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kind = "models"
    repositories: Mapping[str, Repository] = {}
    asked: list[str]

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        kind = self.headers.get("Content-Type", "")
        wanted = json.loads(body)["paths"] if "json" in kind else parse_qs(body).get("paths", [])
        self._answer(wanted)

    def _answer(self, wanted: list[str] | None = None) -> None:
        url = urlsplit(self.path)
        path = url.path
        self.asked.append(f"{self.command} {path}")
        if path.startswith("/cdn/"):
            self._send(self._large(path.removeprefix("/cdn/")), {})
            return
        api = path.startswith(f"/api/{self.kind}/")
        prefix = (
            f"/api/{self.kind}/" if api else {"models": "/", "datasets": "/datasets/"}[self.kind]
        )
        organisation, name, *rest = [*path.removeprefix(prefix).split("/", 2), ""]
        repository = self.repositories.get(f"{organisation}/{name}")
        if repository is None:  # nobody is told what is private and what is not there
            self._refuse(401, "RepoNotFound")
        elif repository.moved_to:
            self.send_response(307)
            moved = url.path.replace(f"{organisation}/{name}", repository.moved_to, 1)
            self.send_header("Location", moved + (f"?{url.query}" if url.query else ""))
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif api:
            recursive = parse_qs(url.query).get("recursive", [""])[0].lower() in ("true", "1")
            self._describe(f"{organisation}/{name}", repository, rest[0], recursive, wanted)
        else:
            self._hand_out(repository, rest[0])

    def _describe(
        self, name: str, repository: Repository, asked: str, recursive: bool, wanted: Any
    ) -> None:
        what, _, rest = asked.partition("/")
        revision, folder = map(unquote, rest.partition("/")[::2])  # a branch's slash is %2F
        commit = repository.commit(revision or "main")
        if commit is None:
            self._refuse(404, "RevisionNotFound")
            return
        files = repository.commits[commit]
        if what in ("tree", "paths-info"):
            entries = _entries(files, folder, recursive=recursive or wanted is not None)
            self._json(
                [each for each in entries if wanted is None or each["path"] in wanted], commit
            )
            return
        siblings = [{"rfilename": path} for path in files]
        about = {"id": name, "sha": commit, "private": False, "gated": bool(repository.denied)}
        self._json({"_id": "1", **about, "modelId": name, "tags": [], "siblings": siblings}, commit)

    def _hand_out(self, repository: Repository, asked: str) -> None:
        _, revision, path = map(unquote, asked.split("/", 2))
        commit = repository.commit(revision)
        content = None if commit is None else repository.commits[commit].get(path)
        if repository.denied:
            self._refuse(repository.denied, "GatedRepo")
        elif commit is None:
            self._refuse(404, "RevisionNotFound")
        elif content is None:
            self._refuse(404, "EntryNotFound", commit)
        elif not _is_large(path):
            self._send(content, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": commit})
        else:
            digest = hashlib.sha256(content).hexdigest()
            linked = {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{digest}"'}
            elsewhere = f"http://localhost:{self.headers['Host'].rpartition(':')[2]}"
            place = {"Location": f"{elsewhere}/cdn/{digest}"}
            self._send(b"", {"X-Repo-Commit": commit, **linked, **place}, status=302)

    def _large(self, digest: str) -> bytes:
        contents = (
            content
            for repository in self.repositories.values()
            for files in repository.commits.values()
            for content in files.values()
        )
        return next(each for each in contents if hashlib.sha256(each).hexdigest() == digest)

    def _json(self, found: Any, commit: str) -> None:
        headers = {"Content-Type": "application/json", "X-Repo-Commit": commit}
        self._send(json.dumps(found).encode(), headers)

    def _refuse(self, status: int, code: str, commit: str = "") -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": f"{code} here"}
        self._send(b"", headers | ({"X-Repo-Commit": commit} if commit else {}), status=status)

    def _send(self, content: bytes, headers: Mapping[str, str], *, status: int = 200) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _entries(files: Mapping[str, bytes], folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    below = f"{folder}/" if folder else ""
    for name, content in files.items():
        if not name.startswith(below):
            continue
        parents = name.removeprefix(below).split("/")[:-1]
        for depth in range(1, len(parents) + 1):
            path = below + "/".join(parents[:depth])
            if recursive or depth == 1:
                found[path] = {"type": "directory", "oid": _oid(path.encode()), "path": path}
        if recursive or not parents:
            size = len(content)
            found[name] = {"type": "file", "oid": _oid(content), "size": size, "path": name}
            if _is_large(name):
                digest = hashlib.sha256(content).hexdigest()
                found[name]["lfs"] = {"oid": digest, "size": size, "pointerSize": 130}
    return list(found.values())


def _is_large(path: str) -> bool:
    """Whether the Hub keeps it elsewhere, by its SHA-256."""
    return path.endswith((".safetensors", ".gguf", ".bin"))


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
