"""A Hub on this machine that holds one data set, for what only a download shows."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "d" * 40


@contextmanager
def dataset_hub(repository: str, files: Mapping[str, bytes]) -> Iterator[str]:
    """Serve a data set; yields the address for ``HF_ENDPOINT``."""

    class Handler(_Handler):
        pass

    Handler.repository, Handler.files = repository, files
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repository = ""
    files: Mapping[str, bytes] = {}

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
        self._json([each for each in self._entries("", recursive=True) if each["path"] in wanted])

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        info, content = f"/api/datasets/{self.repository}", f"/datasets/{self.repository}/resolve/"
        if path == info or path.startswith(f"{info}/revision/"):
            self._json({"id": self.repository, "sha": COMMIT, "private": False, "siblings": []})
        elif path.startswith(f"{info}/tree/"):
            folder = path.removeprefix(f"{info}/tree/").partition("/")[2]
            recursive = parse_qs(url.query).get("recursive", [""])[0].lower() in ("true", "1")
            self._json(self._entries(folder, recursive=recursive))
        elif path.startswith(content):
            name = path.removeprefix(content).partition("/")[2]
            if name in self.files:
                self._send(self.files[name], {"ETag": f'"{_oid(self.files[name])}"'})
            else:
                self._missing("EntryNotFound")
        else:
            self._missing("RepoNotFound")

    def _entries(self, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        below = f"{folder}/" if folder else ""
        for name, content in self.files.items():
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
        return list(found.values())

    def _json(self, found: Any) -> None:
        self._send(json.dumps(found).encode(), {"Content-Type": "application/json"})

    def _missing(self, code: str) -> None:
        self._send(b"", {"X-Error-Code": code}, status=404)

    def _send(self, content: bytes, headers: Mapping[str, str], *, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
