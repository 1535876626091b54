"""Load a configuration: defaults < YAML file < `--set key.path=value`. Every mistake is reported, all at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from rwtrain.errors import ConfigError


class Node(BaseModel):
    """A node of a configuration tree: frozen, documented by field docstrings, closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


ConfigT = TypeVar("ConfigT", bound=Node)


def load_config(tree: type[ConfigT], file: str | Path | None = None, overrides: Iterable[str] = ()) -> ConfigT:
    """Build a validated configuration.

    Args:
        tree: the root class of the configuration.
        file: a YAML file whose keys replace the defaults; None for the defaults alone.
        overrides: "key.path=value" strings, the value read as YAML; they win over the file.

    Raises:
        ConfigError: the file cannot be read, or settings are wrong; all problems are listed in one message.
    """
    values = read_yaml(Path(file)) if file is not None else {}
    for item in overrides:
        _apply_override(values, item)
    where = str(file) if file is not None else "the settings"
    try:
        return tree.model_validate(values)
    except ValidationError as error:
        problems = [_explain(tree, problem) for problem in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(problems)) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; raise `ConfigError` with the place of the mistake if it is not one."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())}). Correct that line.") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds a {type(values).__name__}, not a mapping of settings. Write `key: value` lines.")
    return values


def dump_yaml(config: Node) -> str:
    """The resolved configuration as YAML, in the tree's order."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _apply_override(values: dict[str, Any], item: str) -> None:
    key, separator, text = item.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {item}: write it as key.path=value, for example --set train.steps=100.")
    *parents, leaf = key.split(".")
    node = values
    for name in parents:
        child = node.setdefault(name, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {item}: `{name}` is a value, not a group of settings.")
        node = child
    try:
        node[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {item}: the value is not valid YAML ({' '.join(str(error).split())}).") from error


def _explain(tree: type[BaseModel], problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] != "extra_forbidden":
        message = problem["msg"].removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    known = _known_keys(tree, list(problem["loc"][:-1]))
    near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.0)
    prefix = ".".join([*location[:-1], ""])
    hint = f"; did you mean `{prefix}{near[0]}`?" if near else ""
    return f"unknown key `{key}`{hint}"


def _known_keys(tree: type[BaseModel], location: list[Any]) -> list[str]:
    node: Any = tree
    for part in location:
        if isinstance(part, int):
            continue
        if not (isinstance(node, type) and issubclass(node, BaseModel)):
            return []
        found = node.model_fields.get(part)
        if found is None:  # the tag of a union, not a key
            continue
        node = next((arm for arm in _flatten(found.annotation) if isinstance(arm, type) and issubclass(arm, BaseModel)), found.annotation)
    return list(node.model_fields) if isinstance(node, type) and issubclass(node, BaseModel) else []


def _flatten(annotation: Any) -> list[Any]:
    arms = get_args(annotation)
    if not arms:
        return [annotation]
    return [leaf for arm in arms for leaf in _flatten(arm)]
