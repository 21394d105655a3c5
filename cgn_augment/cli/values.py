"""Reads the values of options and of YAML files, and keeps names as they are written.

YAML 1.1, which PyYAML reads, takes 010 for 8, 000 for 0, and `no` for false: folders and classes
with such names would silently change. Here numbers stay text until an option expects a number, and
only true and false are truth values, as in YAML 1.2.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from jsonargparse import set_loader

NAMES_AS_WRITTEN = "names-as-written"
"""The `parser_mode` of jsonargparse that reads this way."""


_MOST_VALUES = 10**5
"""Values of a YAML text; a few lines of anchors can stand for billions."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def get_single_node(self) -> Any:
        try:
            root = super().get_single_node()
            num = _count(root, {})
        except RecursionError as error:
            raise yaml.YAMLError("it is nested too deep, or in itself") from error
        if num > _MOST_VALUES:
            raise yaml.YAMLError(f"it stands for more than {_MOST_VALUES} values")
        return root


def _count(node: Any, known: dict[int, int]) -> int:
    """Returns the number of values that a node stands for, with anchors written out."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        pairs = isinstance(node, yaml.MappingNode)
        below = [value for _, value in node.value] if pairs else node.value
        known[id(node)] = 1 + sum(_count(each, known) for each in below)
    return known[id(node)]


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool",
    re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"),
    list("tTfF"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)


def load_value(text: str) -> Any:
    """Reads YAML; numbers stay text for the option that they belong to.

    Examples:
        >>> from cgn_augment.cli.values import load_value
        >>> load_value("{000: tench, no: [010, 7], flip: true}")
        {'000': 'tench', 'no': ['010', '7'], 'flip': True}
    """
    return yaml.load(text, Loader=_Loader)


set_loader(NAMES_AS_WRITTEN, load_value, (yaml.YAMLError,))
