"""The list of an exported folder's files, written last: what lacks one of them, or has another size or content, is not a whole export."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rwtrain.errors import DataError
from rwtrain.files import content_hash, write_json

MODEL_TYPE = "refinedweb"  # as in `rwtrain.model.configuration_refinedweb`, which takes seconds to import
LIST_FILE = "export.json"
FORMAT = 1
REMEDY = "Copy the folder again, or export again with `rwtrain export`"


def is_export(path: Path) -> bool:
    """Whether a folder is a Hugging Face folder of a RefinedWeb model."""
    try:
        return json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type") == MODEL_TYPE
    except (OSError, ValueError, AttributeError):
        return False


def files_below(folder: Path) -> dict[str, Path]:
    """All files by their name inside the folder, without the list itself and what the hub's client keeps there."""
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path for name, path in found.items() if name != LIST_FILE and not name.startswith(".cache/")}


def write_list(folder: Path, *, hashes: Mapping[str, str] | None = None, **details: Any) -> None:
    """Write the list; nothing may change in the folder after it.

    Args:
        hashes: those that are known already, by name.
    """
    known = hashes or {}
    files = {name: {"bytes": path.stat().st_size, "hash": known.get(name) or content_hash(path)} for name, path in files_below(folder).items()}
    write_json(folder / LIST_FILE, {"format": FORMAT, **details, "files": files})


def verify(folder: Path) -> dict[str, Any]:
    """Compare the folder with its list and return the list.

    Raises:
        DataError: the folder is no whole export.
    """
    path = folder / LIST_FILE
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        files = dict(listed["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(path, f"no list of an export's files ({error!r}), so the folder may be half of one", REMEDY) from error
    for name, entry in files.items():
        file = folder / name
        if not file.is_file():
            raise DataError(file, "missing from the exported folder", REMEDY)
        if file.stat().st_size != entry["bytes"]:
            raise DataError(file, f"{file.stat().st_size} bytes, {LIST_FILE} says {entry['bytes']}", REMEDY)
        if content_hash(file) != entry["hash"]:
            raise DataError(file, f"its checksum is not that of {LIST_FILE}", f"{REMEDY}; after a change by hand, export again")
    return listed
