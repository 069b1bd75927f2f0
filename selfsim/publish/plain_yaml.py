"""YAML as its readers expect it: ``1e-3`` is a number, and a key that occurs twice is an error."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

# PyYAML follows YAML 1.1, where 1e-3 (no dot) and 1.5e3 (no sign) are strings.
_FLOAT = re.compile(
    r"""^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
        |[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?\.(?:inf|Inf|INF)
        |\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML document.

    Parameters
    ----------
    text : str
        One YAML document.

    Returns
    -------
    object
        Built of dict, list, str, int, float, bool, None and dates.

    Raises
    ------
    ValueError
        Not YAML, or a mapping that holds a key twice; the message holds line and column.

    Examples
    --------
    >>> parse_yaml("lr: 1e-3")
    {'lr': 0.001}
    """
    import yaml

    try:
        return yaml.load(text, Loader=_loader())
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def read_yaml(path: Path) -> Any:
    """Return the value of a YAML file; a ``ValueError`` names the file."""
    text = Path(path).read_text(encoding="utf-8")
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write_yaml(value: Any, path: Path) -> None:
    """Write `value` as a YAML file that :func:`read_yaml` reads back, keys in their order."""
    import yaml

    Path(path).write_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), encoding="utf-8")


@functools.cache
def _loader() -> type:
    # Built on first use, so that importing this module does not need PyYAML.
    import yaml

    class PlainLoader(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            seen = set()
            for key_node, _ in node.value:
                if key_node.tag == "tag:yaml.org,2002:merge":
                    continue
                key = self.construct_object(key_node, deep=True)
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key!r} occurs twice", key_node.start_mark
                    )
                seen.add(key)
            return super().construct_mapping(node, deep)

    PlainLoader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in pairs if tag != "tag:yaml.org,2002:float"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    PlainLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
    return PlainLoader
