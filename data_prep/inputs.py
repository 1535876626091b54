"""Input files, here or anywhere that fsspec reaches: finding them, opening them, and telling whether they changed."""

from __future__ import annotations

import glob
import io
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from rwtrain.errors import DataError, RWTrainError

REMOTE = "://"
LOCAL_PREFIX = "file://"
CHUNK_BYTES = 1 << 22
BUFFER_BYTES = 1 << 18
# What file systems call the mark of a version of a file: S3, HTTP, Google and Azure, Hugging Face.
VERSION_MARKS = ("ETag", "etag", "Content-MD5", "md5Hash", "content_md5", "LastModified", "Last-Modified", "last_modified", "mtime", "blob_id")
DATASET_STATE, DATASET_SPLITS = "state.json", "dataset_dict.json"


def is_remote(path: str) -> bool:
    """Whether a path is a URL (of anything but a local file)."""
    return REMOTE in path


def find_files(patterns: Sequence[str], *, source: str) -> list[tuple[str, str]]:
    """(path or URL, label) of every file that the patterns match, sorted within each pattern; labels are unique.

    A folder that `datasets.Dataset.save_to_disk` wrote stands for its Arrow files.

    Raises:
        DataError: a pattern matches no file.
        RWTrainError: a URL needs a package that is not installed.
    """
    paths: dict[str, None] = {}
    for pattern in patterns:
        plain = pattern.removeprefix(LOCAL_PREFIX)
        found = _find_remote(plain, source=source) if is_remote(plain) else _find_local(plain)
        if not found:
            place = "" if is_remote(plain) else f"; it is read relative to the current folder, {Path.cwd()}"
            raise DataError(pattern, f"no file matches (source `{source}`)", f"Correct the path{place}")
        paths |= dict.fromkeys(found)
    return list(zip(paths, _labels(list(paths)), strict=True))


def _find_local(pattern: str) -> list[str]:
    found: list[str] = []
    for name in sorted(glob.glob(pattern, recursive=True)):
        if os.path.isfile(name):
            found.append(name)
        elif os.path.isfile(os.path.join(name, DATASET_STATE)):
            state = json.loads(Path(name, DATASET_STATE).read_text(encoding="utf-8"))
            found += [os.path.join(name, file["filename"]) for file in state["_data_files"]]
        elif os.path.isfile(splits := os.path.join(name, DATASET_SPLITS)):
            names = ", ".join(json.loads(Path(splits).read_text(encoding="utf-8"))["splits"])
            raise DataError(name, f"a dataset with the splits {names}", "Name the folder of one split")
    return found


def _find_remote(pattern: str, *, source: str) -> list[str]:
    outer, separator, inner = pattern.partition("::")
    files, path = _file_system(pattern)
    try:
        found = sorted(files.glob(path)) if glob.has_magic(path) else [path] if files.isfile(path) else []
    except OSError as error:
        raise DataError(pattern, f"cannot be listed (source `{source}`): {error}", "Check the address and the right to read it") from error
    if separator:
        protocol = outer.partition(REMOTE)[0]
        return [f"{protocol}{REMOTE}{name}::{inner}" for name in found]
    return [files.unstrip_protocol(name) for name in found]


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        protocol = url.partition(REMOTE)[0]
        raise RWTrainError(f"{url}: {protocol}:// needs another package ({error}). Install it with: pip install 'rwtrain[remote]'") from error
    except ValueError as error:
        raise RWTrainError(f"{url}: {error}. Correct the address in the plan.") from error


def _labels(paths: list[str]) -> list[str]:
    """Short unique names: paths from the folder that local files, or addresses, have in common."""
    keys = [path if is_remote(path) else os.path.abspath(path) for path in paths]
    labels: dict[str, str] = {}
    for remote in (False, True):
        parts = {key: key.partition("::")[0].split("/") for key in keys if is_remote(key) == remote}
        levels = zip(*(part[:-1] for part in parts.values()), strict=False)
        depth = sum(1 for _ in itertools.takewhile(lambda names: len(set(names)) == 1, levels))
        labels |= {key: "/".join(part[depth:]) for key, part in parts.items()}
    clash = len(set(labels.values())) < len(labels)
    return [key if clash else labels[key] for key in keys]


class _Remote(io.BufferedReader):
    """A file of a file system that lives as long as the file is open."""

    def __init__(self, stream: Any, files: Any) -> None:
        super().__init__(stream, BUFFER_BYTES)
        self.files = files


def open_input(path: str) -> BinaryIO:
    """Open an input for reading bytes, seekable."""
    if not is_remote(path):
        return open(path, "rb")
    files, name = _file_system(path)
    return _Remote(files.open(name, "rb"), files)


def size_of(path: str) -> int:
    """Bytes of an input; a server that does not say is asked for all of them."""
    if not is_remote(path):
        return os.path.getsize(path)
    files, name = _file_system(path)
    size = files.size(name)
    return int(size) if size is not None else len(files.cat_file(name))


def version_of(path: str) -> list[str | int]:
    """What changes when an input changes: place, size, and time of change or the version that its server names.

    Where a server names no version, it is the hash of the content.
    """
    if not is_remote(path):
        status = os.stat(path)
        return [os.path.abspath(path), status.st_size, status.st_mtime_ns]
    files, name = _file_system(path)
    details = files.info(name)
    mark = next((details[key] for key in VERSION_MARKS if details.get(key)), None)
    if mark is not None and details.get("size") is not None:
        return [path, int(details["size"]), str(mark)]
    digest = xxhash.xxh3_128()
    with open_input(path) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return [path, digest.hexdigest()]
