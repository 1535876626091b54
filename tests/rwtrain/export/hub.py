"""A hub on the loopback address that speaks the few endpoints an upload uses (Hub API and Git LFS), and keeps what it is given."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlparse


class Hub:
    """The server.

    Attributes:
        files: path → content of the repository at its last commit; commits: paths of each commit, deletions as "-PATH".
        fail_at: name in an upload's path or commit that is answered with an error, to interrupt it.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.commits: list[list[str]] = []
        self.stored: dict[str, bytes] = {}  # LFS objects by their SHA-256
        self.requests: list[str] = []
        self.fail_at: str | None = None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def reply(self, status: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
                body = b"" if content is None else json.dumps(content).encode()
                self.send_response(status)
                for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(body))} | (headers or {})).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") == "chunked":
                    parts = []
                    while size := int(self.rfile.readline().strip(), 16):
                        parts.append(self.rfile.read(size))
                        self.rfile.readline()
                    self.rfile.readline()
                    return b"".join(parts)
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))

            def do_HEAD(self) -> None:
                path = urlparse(self.path).path
                hub.requests.append(f"HEAD {path}")
                name = path.split("/resolve/main/", 1)[-1]
                if name not in hub.files:
                    self.reply(404, headers={"X-Error-Code": "EntryNotFound"})
                    return
                self.reply(200, headers={"ETag": '"x"', "X-Repo-Commit": "0" * 40, "Content-Length": "0"})

            def do_GET(self) -> None:
                path = urlparse(self.path).path
                hub.requests.append(f"GET {path}")
                if "/tree/" in path:
                    self.reply(200, [{"type": "file", "path": name, "size": len(data), "oid": hub.blob(data)} for name, data in sorted(hub.files.items())])
                elif path.startswith("/api/models/"):
                    siblings = [{"rfilename": name} for name in sorted(hub.files)]
                    self.reply(200, {"id": "me/model", "sha": "0" * 40, "siblings": siblings, "private": True, "tags": [], "downloads": 0, "likes": 0})
                else:
                    self.reply(404, headers={"X-Error-Code": "EntryNotFound"})

            def do_PUT(self) -> None:
                data = self.body()
                hub.requests.append(f"PUT {self.path}")
                if hub.fail_at == "PUT":
                    self.reply(400, {"error": "no room"})
                    return
                hub.stored[hashlib.sha256(data).hexdigest()] = data
                self.reply(200)

            def do_POST(self) -> None:
                data, path = self.body(), urlparse(self.path).path
                hub.requests.append(f"POST {path}")
                if path == "/api/repos/create":
                    self.reply(200, {"url": hub.address + "/me/model", "name": "me/model"})
                elif path == "/api/validate-yaml":  # the model card's header
                    self.reply(200, {"errors": [], "warnings": []})
                elif "/preupload/" in path:
                    files = [
                        {"path": item["path"], "uploadMode": "lfs" if item["path"].endswith((".safetensors", ".model")) else "regular", "shouldIgnore": False}
                        for item in json.loads(data)["files"]
                    ]
                    self.reply(200, {"files": files})
                elif path.endswith("/info/lfs/objects/batch"):
                    objects = [
                        {**item, **({} if item["oid"] in hub.stored else {"actions": {"upload": {"href": f"{hub.address}/lfs/{item['oid']}"}}})}
                        for item in json.loads(data)["objects"]
                    ]
                    self.reply(200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"})
                elif "/commit/" in path:
                    self.commit(data)
                else:
                    self.reply(404)

            def commit(self, data: bytes) -> None:
                lines = [json.loads(line) for line in data.splitlines() if line.strip()]
                names = [("-" if line["key"] == "deletedFile" else "") + line["value"]["path"] for line in lines if line["key"] != "header"]
                if hub.fail_at is not None and any(hub.fail_at == name for name in names):
                    self.reply(400, {"error": "interrupted"})
                    return
                for line in lines:
                    value = line["value"]
                    if line["key"] == "file":
                        hub.files[value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        hub.files[value["path"]] = hub.stored[value["oid"]]
                    elif line["key"] == "deletedFile":
                        hub.files.pop(value["path"], None)
                hub.commits.append(names)
                url = f"{hub.address}/me/model/commit/{len(hub.commits):040d}"
                self.reply(200, {"commitUrl": url, "commitOid": f"{len(hub.commits):040d}", "hookOutput": "", "success": True})

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @staticmethod
    def blob(data: bytes) -> str:
        """Git's id of a file."""
        return hashlib.sha1(b"blob %d\x00" % len(data) + data, usedforsecurity=False).hexdigest()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
