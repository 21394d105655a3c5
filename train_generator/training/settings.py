"""Checks of settings, for the dataclasses that hold them."""

from __future__ import annotations

import math
from typing import Any, get_args

from cgn_augment.stream.arguments import require_choice
from cgn_augment.errors import ArgumentError


def require_counts(config: object, *names: str, least: int = 1) -> None:
    """Raises `ArgumentError` if one of the settings is below `least`."""
    for name in names:
        value = getattr(config, name)
        if value < least:
            raise ArgumentError(f"{name} must be {least} or more, got {value}")


def require_choices(config: object, **choices: Any) -> None:
    """Raises `ArgumentError` if one of the settings is not of its `Literal`."""
    for name, kind in choices.items():
        parts = [get_args(part) or (part,) for part in get_args(kind)]  # a union has literals
        require_choice(name, getattr(config, name), tuple(word for part in parts for word in part))


def require_shares(config: object, *names: str) -> None:
    """Raises `ArgumentError` if one of the settings is not in [0, 1)."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < 1:
            raise ArgumentError(f"{name} must be in [0, 1), got {value}")


def require_positive(config: object, *names: str) -> None:
    """Raises `ArgumentError` if one of the settings is not a finite number above 0."""
    for name in names:
        value = getattr(config, name)
        if not (math.isfinite(value) and value > 0):
            raise ArgumentError(f"{name} must be above 0, got {value}")


def require_weights(config: object, *names: str) -> None:
    """Raises `ArgumentError` if one of the settings is not a finite number of 0 or more."""
    for name in names:
        value = getattr(config, name)
        if not (math.isfinite(value) and value >= 0):
            raise ArgumentError(f"{name} must be 0 or more, got {value}")
