"""Copies of finished checkpoints on another file system or in an object store, through fsspec (s3://, gs://, hdfs://, file:// …)."""

from __future__ import annotations

from pathlib import Path

import fsspec
from fsspec.core import url_to_fs

from rwtrain.errors import ConfigError
from rwtrain.train.checkpoint import LATEST, MANIFEST, read_manifest


class Mirror:
    """A folder somewhere else that holds the same checkpoints as a run's `checkpoints/`.

    Raises:
        ConfigError: no such kind of file system, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            filesystem, root = url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise ConfigError(f"checkpoint.mirror={url}: {error}. Correct the URL, or install the package for it.") from error
        self.filesystem: fsspec.AbstractFileSystem = filesystem
        self.root = root.rstrip("/")

    def add(self, checkpoint: Path) -> None:
        """Copy a finished checkpoint, its manifest after its files, and the name in `latest` last, so that an interrupted copy is no checkpoint."""
        for name in (*sorted(read_manifest(checkpoint)["files"]), MANIFEST):
            target = f"{self.root}/{checkpoint.name}/{name}"
            self.filesystem.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            self.filesystem.put_file(str(checkpoint / name), target)
        self.filesystem.pipe_file(f"{self.root}/{LATEST}", f"{checkpoint.name}\n".encode())

    def remove(self, name: str) -> None:
        """Delete the copy of a checkpoint, manifest first."""
        if self.filesystem.exists(f"{self.root}/{name}/{MANIFEST}"):
            self.filesystem.rm_file(f"{self.root}/{name}/{MANIFEST}")
            self.filesystem.rm(f"{self.root}/{name}", recursive=True)
