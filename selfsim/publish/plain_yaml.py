"""YAML files, read with errors that name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def read_yaml(path: str | Path) -> Any:
    """Return the content of a YAML file; a ``ValueError`` names the file, the line and what is wrong there."""
    import yaml

    text = Path(path).read_text(encoding="utf-8")
    try:
        _check_keys(yaml.compose(text, Loader=yaml.SafeLoader))
        return yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error


def _check_keys(node: Any) -> None:
    # PyYAML keeps the last of two equal keys, and a chapter would be gone without a word.
    children = getattr(node, "value", None)
    for child in children if isinstance(children, list) else ():
        for part in child if isinstance(child, tuple) else (child,):
            _check_keys(part)
    keys = [str(child[0].value) for child in children if isinstance(child, tuple)] if children else []
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise ValueError(f"line {node.start_mark.line + 1} and after: the key {min(twice)!r} occurs twice")
