"""Cut sources into stretches of whole lines and parse them with several processes; finished parts are found again after a kill.

Plain files are read by the workers themselves. A compressed file is one stream: the main process decompresses it, in a thread, and hands
out the text, so no more than a few stretches are in memory at a time.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import os
import queue
import shutil
import threading
import zlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from rwtrain.errors import DataError, RWTrainError
from rwtrain.files import write_json
from rwtrain.knowledge.parts import Part
from rwtrain.processes import worker_pool

OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open}
UNIT_BYTES = 32 << 20
READ_BYTES = 1 << 20
EXPANSION = 10  # about how much longer dumps are than their compressed files
UNREADABLE = (OSError, EOFError, zlib.error)
Parser = Callable[[bytes, Part, Any], None]


@dataclass(frozen=True)
class Source:
    """A file to import.

    Attributes:
        path: the file, plain, .gz or .bz2.
        parse: a module-level function that adds the lines it is given to a part; None where `parse_sources` gets another function for units.
        options: its third argument.
        end: what a record ends with; a file whose records are not lines is read as one stream.
        label: what the file is, for `options` of later stages ("train", "names").
    """

    path: Path
    parse: Parser | None
    options: Any
    label: str
    end: bytes = b"\n"


@dataclass(frozen=True)
class Unit:
    """A stretch of a source; `text` is None where the worker is to read it from the plain file."""

    number: int
    source: Source
    start: int
    stop: int
    text: bytes | None


def cannot_be_read(path: Path, line: int, error: Exception) -> DataError:
    """The error for a file that is truncated, corrupt or unreadable after `line` lines."""
    return DataError(path, f"cannot be read past this line ({error})", "The file is truncated or corrupt: copy it again", record=line)


def parse_sources(
    sources: list[Source], folder: Path, *, unit_bytes: int, workers: int, quiet: bool, parse: Callable[[Unit, Path], None] | None = None
) -> list[list[Path]]:
    """Parse all sources into parts below `folder`; parts that are already there are kept. Returns the parts' prefixes by source.

    `parse` writes the part of a unit; by default `parse_unit`.

    Raises:
        DataError: a file cannot be read to its end.
        RWTrainError: a worker died.
    """
    finished = folder / "parsed.json"  # spares a continued run the decompression
    if finished.is_file():
        counts = json.loads(finished.read_text(encoding="utf-8"))
        return [[_prefix(folder, place, number) for number in range(count)] for place, count in enumerate(counts)]
    total = sum(source.path.stat().st_size for source in sources)
    prefixes: list[list[Path]] = []
    with tqdm(total=total, desc="reading", unit="B", unit_scale=True, disable=quiet, mininterval=0.5) as bar:
        several = sum(source.path.stat().st_size * (EXPANSION if source.path.suffix in OPENERS else 1) for source in sources) > unit_bytes
        with Workers(workers if several else 1, busy_limit=2 * workers) as pool:
            for place, source in enumerate(sources):
                found: list[Path] = []
                prefixes.append(found)
                for unit in _units(source, unit_bytes, bar):
                    prefix = _prefix(folder, place, unit.number)
                    found.append(prefix)
                    if not is_done(prefix):
                        pool.submit(parse or parse_unit, unit, prefix)
            pool.drain()
    write_json(finished, [len(found) for found in prefixes])
    return prefixes


def parse_unit(unit: Unit, prefix: Path) -> None:
    """Parse one unit and write its part."""
    assert unit.source.parse is not None
    part = Part(unit.source.path.name)
    unit.source.parse(unit_text(unit), part, unit.source.options)
    part.save(prefix)


def unit_text(unit: Unit) -> bytes:
    """The unit's text."""
    return _plain_text(unit) if unit.text is None else unit.text


def decoded_lines(text: bytes, part: Part) -> Iterator[tuple[int, str]]:
    """(line number, text) of the lines of a unit, without line ends; lines that are not UTF-8 are set aside."""
    lines = text.split(b"\n")
    if not lines[-1]:
        lines.pop()
    part.lines = len(lines)
    for number, line in enumerate(lines, 1):
        try:
            yield number, line.decode("utf-8").rstrip("\r")
        except UnicodeDecodeError:
            part.reject(number, "not UTF-8", repr(line[:500]))


class Workers:
    """Processes that do tasks in any order; with one worker everything happens in this process.

    Args:
        workers: number of processes.
        busy_limit: how many tasks may wait or run before `submit` blocks.
    """

    def __init__(self, workers: int, *, busy_limit: int) -> None:
        self.workers, self.busy_limit = workers, busy_limit
        self._executor: ProcessPoolExecutor | None = None
        self._waiting: set[Future] = set()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def submit(self, function: Callable[..., None], *arguments: Any) -> None:
        """Do `function(*arguments)` now or soon."""
        if self.workers == 1:
            function(*arguments)
            return
        if self._executor is None:
            self._executor = worker_pool(self.workers)
        while len(self._waiting) >= self.busy_limit:
            self._collect()
        self._waiting.add(self._executor.submit(function, *arguments))

    def drain(self) -> None:
        """Wait for all tasks."""
        while self._waiting:
            self._collect()

    def _collect(self) -> None:
        done, self._waiting = wait(self._waiting, return_when=FIRST_COMPLETED)
        try:
            for future in done:
                future.result()
        except BrokenProcessPool as error:
            raise RWTrainError(
                "A worker process died; most likely the machine ran out of memory. Run the same command again with fewer --workers: finished parts are kept."
            ) from error


def _prefix(folder: Path, source: int, number: int) -> Path:
    return folder / f"{source:03d}-{number:06d}"


def is_done(prefix: Path) -> bool:
    """Whether all files of a part are there."""
    return prefix.with_name(f"{prefix.name}.json").is_file()


def _units(source: Source, unit_bytes: int, bar: tqdm) -> Iterator[Unit]:
    if source.path.suffix in OPENERS or source.end != b"\n":
        yield from _stream_units(source, unit_bytes, bar)
        return
    size = source.path.stat().st_size
    for number in range(-(-size // unit_bytes)):
        start, stop = number * unit_bytes, min(size, (number + 1) * unit_bytes)
        yield Unit(number, source, start, stop, None)
        bar.update(stop - start)


def _plain_text(unit: Unit) -> bytes:
    """The lines that begin inside the unit's bytes."""
    try:
        with open(unit.source.path, "rb") as stream:
            start = unit.start
            if start:
                stream.seek(start - 1)
                start += len(stream.readline()) - 1
            if start >= unit.stop:
                return b""
            stream.seek(start)
            text = stream.read(unit.stop - start)
            return text if text.endswith(b"\n") else text + stream.readline()
    except OSError as error:
        raise cannot_be_read(unit.source.path, 0, error) from error


def _stream_units(source: Source, unit_bytes: int, bar: tqdm) -> Iterator[Unit]:
    number, position, rest = 0, 0, b""
    pieces: list[bytes] = []
    held = 0
    with contextlib.closing(_decompressed(source.path, bar, min(READ_BYTES, unit_bytes))) as chunks:
        for chunk in chunks:
            pieces.append(chunk)
            held += len(chunk)
            if held < unit_bytes:
                continue
            text = b"".join(pieces)
            cut = text.rfind(source.end) + len(source.end)
            if cut < len(source.end):
                pieces = [text]
                continue
            text, rest = text[:cut], text[cut:]
            yield Unit(number, source, position, position + len(text), text)
            number, position, pieces, held = number + 1, position + len(text), [rest], len(rest)
    text = b"".join(pieces)
    if text:
        yield Unit(number, source, position, position + len(text), text)


def _decompressed(path: Path, bar: tqdm, chunk_bytes: int) -> Generator[bytes, None, None]:
    """Chunks of a compressed file, decompressed by a thread that runs a little ahead."""
    chunks: queue.Queue[bytes | Exception | None] = queue.Queue(maxsize=8)
    stopped = threading.Event()

    def put(item: bytes | Exception | None) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                chunks.put(item, timeout=0.2)
                return

    def read() -> None:
        try:
            with open(path, "rb") as raw:
                stream: BinaryIO = OPENERS[path.suffix](raw, "rb") if path.suffix in OPENERS else raw
                seen = 0
                while not stopped.is_set() and (chunk := stream.read(chunk_bytes)):
                    put(chunk)
                    bar.update(raw.tell() - seen)
                    seen = raw.tell()
            put(None)
        except UNREADABLE as error:
            put(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    lines = 0
    try:
        while (item := chunks.get()) is not None:
            if isinstance(item, Exception):
                raise cannot_be_read(path, lines, item) from item
            lines += item.count(b"\n")
            yield item
    finally:
        stopped.set()
        thread.join()


def fingerprint(paths: list[Path]) -> list[list[Any]]:
    """What tells whether files are the same as when an import was interrupted: name, size and time of change."""
    return [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]


def open_work(folder: Path, plan: dict[str, Any]) -> bool:
    """Make the folder for parts, or continue in it if it was made for the same plan; True if so."""
    path = folder / "plan.json"
    plan = json.loads(json.dumps(plan))
    if path.is_file():
        with contextlib.suppress(ValueError):
            if json.loads(path.read_text(encoding="utf-8")) == plan:
                return True
    if folder.exists():
        shutil.rmtree(folder)
    os.makedirs(folder)
    write_json(path, plan)
    return False
