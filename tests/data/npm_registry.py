"""A small npm registry on this machine, which can misbehave in the ways that real ones and networks do."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import json
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from pi_repro.spec.card import Source


def tgz(members: Mapping[str, bytes], top: str = "package") -> bytes:
    """A tarball as npm makes it."""
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def integrity(content: bytes) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()


@dataclass
class Registry:
    """Packages by name@version. `ill` tells how the next tarballs of a name are served, one word a request:
    "corrupt" (other bytes than announced), "swapped" (other bytes, announced as such), "truncated", "slow"."""

    url: str = ""
    packages: dict[str, bytes] = field(default_factory=dict)
    ill: dict[str, list[str]] = field(default_factory=dict)
    downloads: list[str] = field(default_factory=list)

    def add(self, locator: str, version: str, members: Mapping[str, bytes], **about: object) -> Source:
        """Publish a package; gives the card's source for it."""
        members = {"package.json": json.dumps({"name": locator, "version": version}).encode(), **members}
        content = tgz(members)
        self.packages[f"{locator}@{version}"] = content
        fields = {"name": locator.split("/")[-1], "digest": integrity(content), **about}
        return Source(
            kind="npm",
            locator=locator,
            revision=version,
            bytes=len(content),
            licence="MIT",
            **fields,  # type: ignore[arg-type]
        )


@contextlib.contextmanager
def serve() -> Iterator[Registry]:
    registry = Registry()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def reply(self, content: bytes, kind: str, status: int = 200, claim: int | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(claim or len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            path = unquote(self.path.split("?")[0]).lstrip("/")
            if path.startswith("tarballs/"):
                return self.tarball(path.removeprefix("tarballs/"))
            found = {key: body for key, body in registry.packages.items() if key.rpartition("@")[0] == path}
            if not found:
                return self.reply(b'{"error":"Not found"}', "application/json", 404)
            versions = {}
            for key, body in found.items():
                version = key.rpartition("@")[2]
                if registry.ill.get(path, [])[:1] == ["swapped"]:
                    body = tgz({"package.json": b"{}", "swapped": b"swapped"})
                versions[version] = {
                    "name": path,
                    "version": version,
                    "dist": {"tarball": f"{registry.url}/tarballs/{key}", "integrity": integrity(body)},
                }
            document = {"name": path, "dist-tags": {"latest": next(iter(versions))}, "versions": versions}
            return self.reply(json.dumps(document).encode(), "application/json")

        def tarball(self, key: str) -> None:
            registry.downloads.append(key)
            content, name = registry.packages[key], key.rpartition("@")[0]
            illness = registry.ill.get(name, [])
            what = illness.pop(0) if illness else ""
            if what == "slow":
                time.sleep(1.5)
            if what == "corrupt":
                middle = len(content) // 2
                content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            if what == "swapped":
                content = tgz({"package.json": b"{}", "swapped": b"swapped"})
            if what == "truncated":
                self.reply(content[: len(content) // 2], "application/octet-stream", claim=len(content))
                self.close_connection = True
                return
            self.reply(content, "application/octet-stream")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    registry.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
