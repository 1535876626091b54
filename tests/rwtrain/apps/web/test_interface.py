"""The JSON interface gives the library's numbers, and refuses what it should."""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import zlib
from pathlib import Path

import pytest

from rwtrain.apps.inside import look
from rwtrain.apps.model import AppModel
from rwtrain.apps.rewriting import correct
from rwtrain.apps.words import read_words
from rwtrain.apps.writing import Sampling, write
from tests.rwtrain.apps.web.conftest import post, start

TEXT = "Here entity 3 met entity 17."
HOSTILE = ["<script>alert(1)</script>", "../../../../etc/passwd", "'; DROP TABLE x; --", "\x00\x01\udc80", "𐍈" * 50, "{{7*7}}", "%s%n"]


@pytest.fixture(scope="module")
def model(served: dict[str, str]) -> AppModel:
    return AppModel.open(served["--model"])


def test_look_equals_the_library(server: str, model: AppModel) -> None:
    status, text = post(server, "/api/look", {"text": TEXT})
    found, expected = json.loads(text), json.loads(json.dumps(look(model, TEXT).as_dict()))
    assert status == 200
    assert found["links"] == expected["links"]
    assert found["openness"] == [pytest.approx(row, abs=1e-6) for row in expected["openness"]]
    assert len(found["images"]) == 3


def test_writing_streams_what_the_library_writes(server: str, model: AppModel) -> None:
    status, text = post(server, "/api/write", {"text": TEXT, "max_new_tokens": 12, "seed": 4})
    pieces = [json.loads(line) for line in text.splitlines()]
    assert status == 200
    assert "".join(piece["text"] for piece in pieces) == "".join(piece.text for piece in write(model, TEXT, Sampling(max_new_tokens=12, seed=4)))
    assert pieces[-1]["finished"] in ("length", "end")


def test_every_application_answers(server: str) -> None:
    status, text = post(server, "/api/answer", {"question": "What is an anarchist?"})
    found = json.loads(text)
    assert status == 200
    assert found["answer"] in found["passages"][0]["text"] + found["passages"][-1]["text"]
    assert json.loads(post(server, "/api/graph", {"question": "What comes after entity 4?"})[1])["answers"][0]["subject"] == "entity 4"
    assert json.loads(post(server, "/api/items", {"words": "thing 5"})[1])["items"][0]["id"] == "i5"
    assert len(json.loads(post(server, "/api/recommend", {"history": ["i1", "i2"], "count": 3})[1])["items"]) == 3
    unchosen = json.loads(post(server, "/api/recommend", {"history": ["i1", "i2"], "new": True})[1])["items"]
    assert {each["item"] for each in unchosen} == {"i6", "i7"}
    assert json.loads(post(server, "/api/fill", {"before": "The ", "after": " was here.", "max_tokens": 2})[1])["fillings"]


def test_corrections_are_the_library_s_with_the_served_words(server: str, model: AppModel, served: dict[str, str]) -> None:
    text = "thye were hree"
    expected = correct(model, text, words=read_words(Path(served["--words"])))
    assert expected.edits
    assert correct(model, text).text != expected.text
    found = json.loads(post(server, "/api/correct", {"text": text})[1])
    assert found["text"] == expected.text
    assert [(edit["start"], edit["replacement"]) for edit in found["edits"]] == [(edit.start, edit.replacement) for edit in expected.edits]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_texts(server: str, text: str) -> None:
    for path, body in (
        ("/api/look", {"text": text}),
        ("/api/answer", {"question": text}),
        ("/api/graph", {"question": text}),
        ("/api/items", {"words": text}),
        ("/api/recommend", {"history": [text]}),
        ("/api/correct", {"text": text}),
    ):
        status, answer = post(server, path, body)
        assert status in (200, 422), (path, answer)
        assert "root:" not in answer


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/look", {"text": "x" * 20_001}),
        ("/api/write", {"text": "x", "max_new_tokens": 100_000}),
        ("/api/write", {"text": "x", "temperature": "hot"}),
        ("/api/look", {"text": "x", "model": "/etc/passwd"}),
        ("/api/recommend", {"history": []}),
        ("/api/look-image", {"image": "///no base64", "text": "x"}),
        ("/api/look-image", {"image": base64.b64encode(b"no image").decode(), "text": "x"}),
        ("/api/look", b"{"),
    ],
)
def test_wrong_requests(server: str, path: str, body: object) -> None:
    status, text = post(server, path, body)
    assert status == 422
    assert "Traceback" not in text


def bomb(side: int) -> bytes:
    """A small PNG file of side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, rows = zlib.compressobj(9), io.BytesIO()
    for _ in range(side // 1000):
        rows.write(packer.compress(b"\0" * (1 + side // 8) * 1000))
    rows.write(packer.flush())
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)) + chunk(b"IDAT", rows.getvalue()) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [12_000, 60_000])  # Pillow itself refuses the larger one only
def test_decompression_bomb(server: str, side: int) -> None:
    image = bomb(side)
    assert len(image) < 1 << 20
    status, text = post(server, "/api/look-image", {"image": base64.b64encode(image).decode(), "text": "x"})
    assert status == 422
    assert "pixels" in text or "decoded" in text


def test_large_upload_is_cut_off(server: str) -> None:
    host, port = server.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:  # refused before a byte of it is sent
        connection.sendall(f"POST /api/look HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {100 << 20}\r\n\r\n".encode())
        assert b" 413 " in connection.recv(1000)
    with socket.create_connection((host, int(port)), timeout=60) as connection:  # 100 MB without saying so before
        connection.sendall(f"POST /api/look HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        sent = 0
        try:
            for _ in range(1600):
                connection.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
                sent += 0x10000
            answer = connection.recv(1000)
        except OSError:
            answer = b""
    assert b" 413 " in answer or sent < 100 << 20


@pytest.mark.parametrize("path", ["/../../etc/passwd", "/_nicegui/../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/api/../../etc/passwd"])
def test_paths_stay_inside(server: str, path: str) -> None:
    host, port = server.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n".encode())
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert b"root:" not in answer


def test_other_sites_are_refused(server: str) -> None:
    assert post(server, "/api/look", {"text": "x"}, Origin="http://evil.example")[0] == 403
    assert post(server, "/api/look", {"text": "x"}, Origin="null")[0] == 403
    assert post(server, "/api/look", {"text": "x"}, Host="evil.example")[0] == 403


def test_token(served: dict[str, str], tmp_path: Path) -> None:
    token = "0123456789abcdef-secret"
    (tmp_path / "token").write_text(token)
    process, address = start({"--model": served["--model"], "--token-file": str(tmp_path / "token")})
    try:
        assert token not in address
        assert post(address, "/api/look", {"text": TEXT})[0] == 401
        assert post(address, "/api/look", {"text": TEXT}, Authorization="Bearer wrong")[0] == 401
        assert post(address, "/api/look", {"text": TEXT}, Authorization=f"Bearer {token}")[0] == 200
        assert post(address, "/api/look", {"text": TEXT}, Cookie=f"rwtrain_token={token}")[0] == 200
    finally:
        process.terminate()
        process.wait(30)
