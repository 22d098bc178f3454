"""A local stand-in for the Hub: the few endpoints that its library asks, over real HTTP, for folders on this disk.

`HF_ENDPOINT` leads the library here. It can be told to break off in the middle of a file, which is what networks do.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class HubServer:
    """`repositories` by name; `asked` is every (method, path, range) so far. The first answer with a file whose name is
    in `breaks` ends after so many bytes."""

    repositories: dict[str, Path]
    commits: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    breaks: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)  # that are claimed, instead of the true ones
    address: str = ""

    def commit(self, repo: str) -> str:
        return self.commits.get(repo, COMMIT)

    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for, each once."""
        return list(
            dict.fromkeys(
                path.split("/resolve/")[1].partition("/")[2]
                for kind, path, _ in self.asked
                if kind == "GET" and "/resolve/" in path
            )
        )


def etag(name: str) -> str:
    """What stands for the content of the file of that name."""
    return hashlib.sha1(name.encode()).hexdigest()


@contextmanager
def serving(repositories: dict[str, Path], commits: dict[str, str] | None = None) -> Iterator[HubServer]:
    """A server for as long as the block lasts."""
    hub = HubServer(repositories, commits or {})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(False)

        def do_GET(self) -> None:
            self.answer(True)

        def answer(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append((self.command, path, self.headers.get("Range")))
            if found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/(revision|tree)/([\w.-]+))?", path):
                self.list_files(*found.groups())
            elif found := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([\w.-]+)/(.+)", path):
                self.send_part(*found.groups(), body)
            else:
                self.send(404, b"")

        def known(self, repo: str, revision: str | None) -> bool:
            if repo not in hub.repositories:
                self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
                return False
            if revision not in (None, "main", hub.commit(repo)):
                self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
                return False
            return True

        def list_files(self, repo: str, kind: str | None, revision: str | None) -> None:
            if not self.known(repo, revision):
                return
            folder = hub.repositories[repo]
            paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            names = [str(path.relative_to(folder)) for path in paths]
            if kind == "tree":
                sizes = (hub.sizes.get(path.name, path.stat().st_size) for path in paths)
                listing: object = [
                    {"type": "file", "path": name, "size": size, "oid": etag(name)}
                    for name, size in zip(names, sizes, strict=True)
                ]
            else:
                listing = {"id": repo, "sha": hub.commit(repo), "siblings": [{"rfilename": name} for name in names]}
            self.send(200, json.dumps(listing).encode(), {"Content-Type": "application/json"})

        def send_part(self, repo: str, revision: str, name: str, body: bool) -> None:
            if not self.known(repo, revision):
                return
            path = hub.repositories[repo] / name
            if not path.is_file():
                self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            data = path.read_bytes()
            headers = {
                "ETag": f'"{etag(name)}"',
                "X-Repo-Commit": hub.commit(repo),
                "Accept-Ranges": "bytes",
            }
            if path.name in hub.sizes:
                headers["X-Linked-Size"] = str(hub.sizes[path.name])
            status = 200
            if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
                start, stop = int(found[1]), min(int(found[2] or len(data)) + 1, len(data))
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
                data, status = data[start:stop], 206
            self.send(status, data, headers, body, hub.breaks.pop(name, None) if body else None)

        def send(self, status: int, data: bytes, headers=(), body: bool = True, broken: int | None = None) -> None:
            self.send_response(status)
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data[:broken])
            if broken is not None:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
