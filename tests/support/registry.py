"""A container registry that holds one small image, for a program of its own: python registry.py PORT [--silent].

It speaks as much of the OCI distribution API as a pull needs. With --silent it takes connections and never answers.
The image's identity is the digest of its configuration, ``IMAGE_ID``.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import socket
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer() -> bytes:
    """A tar archive with one file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo("etc/from-registry")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"yes\n"))
    return out.getvalue()


LAYER = layer()
PACKED = gzip.compress(LAYER, mtime=0)
CONFIG = json.dumps(
    {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(LAYER)]},
    }
).encode()
IMAGE_ID = digest(CONFIG)
MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "size": len(CONFIG),
            "digest": digest(CONFIG),
        },
        "layers": [
            {
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "size": len(PACKED),
                "digest": digest(PACKED),
            }
        ],
    }
).encode()
BLOBS = {digest(CONFIG): CONFIG, digest(PACKED): PACKED}


class Registry(BaseHTTPRequestHandler):
    """The image is there under every name."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[-1]
        if "/manifests/" in self.path:
            self.answer(MANIFEST, MANIFEST_TYPE)
        elif name in BLOBS:
            self.answer(BLOBS[name], "application/octet-stream")
        elif self.path == "/v2/":
            self.answer(b"{}", "application/json")
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Docker-Content-Digest", digest(body))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


if __name__ == "__main__":
    address = ("127.0.0.1", int(sys.argv[1]))
    if "--silent" in sys.argv:
        with socket.create_server(address):
            print("ready", flush=True)
            threading.Event().wait()
    else:
        with ThreadingHTTPServer(address, Registry) as server:
            print("ready", flush=True)
            server.serve_forever()
