"""Messages between the nodes of a job: JSON lines over TCP, never blocking."""

from __future__ import annotations

import json
import socket
from typing import Any

LONGEST = 1 << 20
CHUNK = 1 << 16

Message = dict[str, Any]


class Wire:
    """One connection.

    Raises:
        ConnectionError: from `receive` and `flush`, when it is broken or the other side does not keep to the format.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection
        self._in, self._out = b"", b""

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, message: Message) -> None:
        """Queue a message and send what the connection takes now."""
        self._out += json.dumps(message).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        while self._out:
            try:
                sent = self.socket.send(self._out)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                raise ConnectionError(str(error)) from error
            self._out = self._out[sent:]

    def receive(self) -> list[Message]:
        """Whole messages that have arrived."""
        while True:
            try:
                chunk = self.socket.recv(CHUNK)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                raise ConnectionError(str(error)) from error
            if not chunk:
                raise ConnectionError("the other side closed the connection")
            self._in += chunk
            if len(self._in) > LONGEST:
                raise ConnectionError("a message is too long")
        *lines, self._in = self._in.split(b"\n")
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError as error:
            raise ConnectionError("a message is not JSON") from error
        if not all(isinstance(message, dict) and isinstance(message.get("kind"), str) for message in messages):
            raise ConnectionError("a message has no kind")
        return messages

    def close(self) -> None:
        self.socket.close()
