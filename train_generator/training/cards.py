"""What the cards of trained generators share: the command that repeats a training, its memory."""

from __future__ import annotations

import json
import resource
import shlex
import sys
from dataclasses import asdict, fields, is_dataclass
from typing import Any


def changed_flags(config: Any, default: Any) -> list[str]:
    """Returns the flags of the command line for the settings that are not the default's.

    Args:
        config: a dataclass; a setting of it may be another dataclass.
        default: another one of the same kind.
    """
    words: list[str] = []
    for setting in fields(config):
        name, value = setting.name, getattr(config, setting.name)
        if is_dataclass(value) and not isinstance(value, type):
            words += _flags(asdict(value), asdict(getattr(default, name)), f"{name}.")
        else:
            words += _flags({name: value}, {name: getattr(default, name)})
    return words


def peak_memory() -> int:
    """Returns the most memory that this process has held so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _flags(values: dict[str, Any], defaults: dict[str, Any], prefix: str = "") -> list[str]:
    changed = {name: value for name, value in values.items() if value != defaults[name]}
    return [f"--{prefix}{name} {_quote(value)}" for name, value in changed.items()]


def _quote(value: Any) -> str:
    return shlex.quote(json.dumps(value) if isinstance(value, tuple) else str(value))
