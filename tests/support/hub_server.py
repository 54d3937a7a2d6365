"""A stand-in for the Hugging Face Hub on loopback: the part of its HTTP interface that the real clients use.

Repositories are given as {file name: bytes}. Nothing leaves the machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Files = Mapping[str, bytes]
Repos = Mapping[tuple[str, str], Files]  # ("models" | "datasets", id) -> files

_API = re.compile(r"/api/(models|datasets)/([\w.-]+/[\w.-]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?")
_FILE = re.compile(r"/(datasets/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)")


def commit_of(files: Files) -> str:
    """Return the 40 hex digits that stand for a commit of these files."""
    digest = hashlib.sha1(usedforsecurity=False)
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + files[name] + b"\0")
    return digest.hexdigest()


@contextlib.contextmanager
def serve(repos: Repos) -> Iterator[tuple[str, list[str]]]:
    """Serve the repositories; yield the endpoint and the list of requests, which grows as they come."""
    log: list[str] = []
    handler = type("Handler", (_Handler,), {"repos": repos, "log": log})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", log
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def silence() -> Iterator[tuple[str, Callable[[], int]]]:
    """Yield the endpoint of a socket that takes connections and never answers, and what counts those so far."""
    taken: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=16))
        listening.setblocking(False)

        def n_asked() -> int:
            with contextlib.suppress(BlockingIOError):
                while True:
                    taken.append(stack.enter_context(listening.accept()[0]))
            return len(taken)

        yield f"http://127.0.0.1:{listening.getsockname()[1]}", n_asked


class _Handler(BaseHTTPRequestHandler):
    repos: Repos
    log: list[str]
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean; `log` has it all."""

    def _answer(self, body: bytes = b"") -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.log.append(f"{self.command} {path}")
        if match := _API.fullmatch(path):
            self._api(*match.groups(), query=parse_qs(url.query), body=body)
        elif match := _FILE.fullmatch(path):
            self._file("datasets" if match[1] else "models", match[2], match[3], match[4])
        else:
            self._missing("EntryNotFound")

    def _api(
        self, kind: str, repo: str, what: str | None, revision: str | None, *rest: Any, query: Any, body: bytes
    ) -> None:
        files = self._revision(kind, repo, revision)
        if files is None:
            return
        if what == "tree":
            folder = (rest[0] or "").strip("/")
            self._json(_tree(files, folder, recursive=query.get("recursive", ["false"])[0].lower() in ("true", "1")))
        elif what == "paths-info":
            asked = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
            entries = {entry["path"]: entry for entry in _tree(files, "", recursive=True)}
            self._json([entries[name.strip("/")] for name in asked if name.strip("/") in entries])
        else:
            siblings = [{"rfilename": name} for name in files]
            self._json({"id": repo, "sha": commit_of(files), "private": False, "tags": [], "siblings": siblings})

    def _file(self, kind: str, repo: str, revision: str, name: str) -> None:
        files = self._revision(kind, repo, revision)
        if files is None:
            return
        if name not in files:
            self._missing("EntryNotFound", commit_of(files))
            return
        content, status = files[name], 200
        extra = {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": commit_of(files), "Accept-Ranges": "bytes"}
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
            extra["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        self._send(status, content, "application/octet-stream", extra)

    def _revision(self, kind: str, repo: str, revision: str | None) -> Files | None:
        files = self.repos.get((kind, repo))
        if files is None:
            self._missing("RepoNotFound")
        elif revision not in (None, "main", commit_of(files)):
            self._missing("RevisionNotFound")
        else:
            return files
        return None

    def _missing(self, code: str, commit: str | None = None) -> None:
        extra = {"X-Error-Code": code, "X-Error-Message": code} | ({"X-Repo-Commit": commit} if commit else {})
        self._send(404, json.dumps({"error": code}).encode(), "application/json", extra)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), "application/json", {})

    def _send(self, status: int, content: bytes, kind: str, extra: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **extra}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def _tree(files: Files, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    """Return the entries below `folder` as the Hub lists them."""
    prefix = f"{folder}/" if folder else ""
    entries: dict[str, dict[str, Any]] = {}
    for name, content in sorted(files.items()):
        if not name.startswith(prefix):
            continue
        parts = name[len(prefix) :].split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            path = prefix + "/".join(parts[:depth])
            entries[path] = {"type": "directory", "path": path, "oid": _oid(path.encode()), "size": 0}
        if recursive or len(parts) == 1:
            entries[name] = {"type": "file", "path": name, "oid": _oid(content), "size": len(content)}
    return list(entries.values())
