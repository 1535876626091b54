"""`rwtrain` for shell scripts of tests, as forks of a process that has imported torch and transformers already: each command starts four seconds sooner.

    python -m tests.forked_commands FOLDER     serves until it is killed; FOLDER/rwtrain is the command, to be put on the PATH

Arguments, folder, environment, standard streams and exit status are those of the command. Processes that it starts itself are started as always.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path

from rwtrain.cli import main

PRELOADED = ("rwtrain.model.heads_refinedweb", "rwtrain.train.setup", "rwtrain.export.export", "rwtrain.apps.answering", "rwtrain.data.loader", "pandas")
SOCKET, COMMAND = "socket", "rwtrain"
CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({socket!r})
    socket.send_fds(server, [b"streams"], [0, 1, 2])
    server.sendall(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode())
    server.shutdown(socket.SHUT_WR)
    sys.exit(int(server.recv(16) or b"70"))
"""


def serve(folder: Path) -> None:
    """Answer for ever; the command appears when everything is imported."""
    for name in PRELOADED:
        importlib.import_module(name)
    assert threading.active_count() == 1  # a fork takes no other thread along
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / SOCKET))
        server.listen()
        unfinished = folder / "unfinished"
        unfinished.write_text(CLIENT.format(python=sys.executable, socket=str(folder / SOCKET)))
        unfinished.chmod(0o755)
        unfinished.rename(folder / COMMAND)
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                _answer(connection)
            connection.close()


def _answer(connection: socket.socket) -> None:
    """Run the command in a process of its own, and tell the client how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(connection, len(b"streams"), 3)
    request = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    child = os.fork()
    if child == 0:
        connection.close()
        _run(*json.loads(request), streams)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    connection.sendall(str(code if code >= 0 else 128 - code).encode())
    os._exit(0)


def _run(arguments: list[str], folder: str, environment: dict[str, str], streams: list[int]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [COMMAND, *arguments]
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
