"""The common part of cards: the command that repeats a training, and its memory."""

from __future__ import annotations

import json
import resource
import shlex
import sys
from dataclasses import fields, is_dataclass
from typing import Any


def changed_flags(config: Any, default: Any, prefix: str = "") -> list[str]:
    """Returns flags, with a prefix, for settings of a dataclass that differ from the default."""
    words: list[str] = []
    for setting in fields(config):
        name, value = f"{prefix}{setting.name}", getattr(config, setting.name)
        usual = getattr(default, setting.name)
        if is_dataclass(value):
            words += changed_flags(value, usual, f"{name}.")
        elif value != usual:
            text = json.dumps(value) if isinstance(value, tuple) else str(value)
            words.append(f"--{name} {shlex.quote(text)}")
    return words


def peak_memory() -> int:
    """Returns the highest memory use of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
