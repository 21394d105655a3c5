"""Checks of arguments and of the settings in dataclasses.

Each raises `ArgumentTypeError` for a value of the wrong type, and `ArgumentError` for a value that
cannot be used.
"""

from __future__ import annotations

import importlib
import math
import operator
from collections.abc import Sequence
from types import ModuleType
from typing import Any, get_args

import torch
from torch import Tensor

from cgn_augment.errors import ArgumentError, ArgumentTypeError, MissingPackageError

MAX_SIDE = 2**15
"""Greatest side of an image, in pixels; one of this size has 3 GB as bytes."""

MAX_CLASSES = 10**6

MAX_EPOCHS = 10**5

MAX_WORKERS = 1024
"""Most processes of a loader; each takes memory of its own."""

MAX_AHEAD = 1024
"""Most steps or batches that are made ahead; each holds a batch."""

_MAX_COUNT = 2**64 - 1
"""The most that torch's generators take."""


def require_package(name: str, extra: str, need: str, instead: str = "") -> ModuleType:
    """Returns a module of an optional package.

    Args:
        name: name of the module.
        extra: our extra that installs it.
        need: the reason, such as "FID needs torchmetrics".
        instead: what else to do, such as "write a .gif".

    Raises:
        MissingPackageError: the package is not installed; the message says how to install it.

    Examples:
        >>> from cgn_augment.checks import require_package
        >>> require_package("math", "metrics", "FID needs torchmetrics").sqrt(4.0)
        2.0
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        choice = f", or {instead}" if instead else ""
        raise MissingPackageError(
            f"{need}: python -m pip install 'cgn-augment[{extra}]'{choice}"
        ) from error


def require_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuses a value that is not one of the choices.

    Args:
        name: name of the argument, for the message.
        value: what the user gave.
        choices: the values that are allowed.

    Raises:
        ArgumentError: the value is not one of them.

    Examples:
        >>> from cgn_augment.checks import require_choice
        >>> require_choice("mix", "append", ("append", "replace"))
    """
    if value not in choices:
        raise ArgumentError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def require_count(name: str, value: object, least: int = 1, most: int = _MAX_COUNT) -> int:
    """Returns an integer of `least` to `most`.

    Accepts anything that behaves as an integer, such as a NumPy integer, but not True or False.

    Args:
        name: name of the argument, for the message.
        value: what the user gave.
        least: smallest value allowed.
        most: greatest value allowed.

    Raises:
        ArgumentTypeError: the value is not an integer.
        ArgumentError: the value is too small or too large.

    Examples:
        >>> from cgn_augment.checks import require_count
        >>> require_count("size", 20)
        20
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ArgumentTypeError(f"{name} must be an integer, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError as error:  # an array with several entries
        raise ArgumentTypeError(f"{name} must be an integer, got {value!r}") from error
    if number < least:
        raise ArgumentError(f"{name} must be {least} or more, got {number}")
    if number > most:
        limit = "below 2**64" if most == _MAX_COUNT else f"{most} or less"
        raise ArgumentError(f"{name} must be {limit}, got {number}")
    return number


def require_side(name: str, value: object) -> int:
    """Returns the side of an image in pixels, of 1 to `MAX_SIDE`; see `require_count`.

    Args:
        name: name of the argument, for the message.
        value: what the user gave.
    """
    return require_count(name, value, most=MAX_SIDE)


def require_workers(value: object) -> int:
    """Returns `num_workers`, of 0 to `MAX_WORKERS`; see `require_count`.

    Args:
        value: what the user gave.
    """
    return require_count("num_workers", value, 0, MAX_WORKERS)


def require_counts(config: object, *names: str, least: int = 1, most: int = _MAX_COUNT) -> None:
    """Refuses settings of a dataclass that are not integers of `least` to `most`.

    Values that behave as integers become plain integers, which JSON and YAML need.

    Args:
        config: the dataclass.
        names: names of the settings.
        least: smallest value allowed.
        most: greatest value allowed.

    Raises:
        ArgumentTypeError: a value is not an integer.
        ArgumentError: a value is too small or too large.
    """
    for name in names:
        given = getattr(config, name)
        number = require_count(name, given, least, most)
        if type(given) is not int:
            object.__setattr__(config, name, number)


def require_part(name: str, value: float) -> float:
    """Returns a number above 0 and at most 1, or raises `ArgumentError`.

    Args:
        name: name of the argument, for the message.
        value: what the user gave.

    Examples:
        >>> from cgn_augment.checks import require_part
        >>> require_part("crop", 0.875)
        0.875
    """
    if not 0 < value <= 1:
        raise ArgumentError(f"{name} must be above 0 and at most 1, got {value}")
    return value


def require_choices(config: object, **choices: Any) -> None:
    """Refuses settings of a dataclass that are not among the values of their `Literal` type.

    Args:
        config: the dataclass.
        choices: the `Literal` type of each setting, by name.

    Raises:
        ArgumentError: a setting has another value.
    """
    for name, kind in choices.items():
        parts = [get_args(part) or (part,) for part in get_args(kind)]  # a union holds literals
        require_choice(name, getattr(config, name), tuple(word for part in parts for word in part))


def require_shares(config: object, *names: str) -> None:
    """Refuses settings of a dataclass that are not in [0, 1).

    Args:
        config: the dataclass.
        names: names of the settings.
    """
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < 1:
            raise ArgumentError(f"{name} must be in [0, 1), got {value}")


def require_positive(config: object, *names: str) -> None:
    """Refuses settings of a dataclass that are not finite numbers above 0.

    Args:
        config: the dataclass.
        names: names of the settings.
    """
    for name in names:
        value = getattr(config, name)
        if not (math.isfinite(value) and value > 0):
            raise ArgumentError(f"{name} must be above 0, got {value}")


def require_amount(name: str, value: float) -> float:
    """Returns a finite number of 0 or more, or raises `ArgumentError`.

    Args:
        name: name of the argument, for the message.
        value: what the user gave.

    Examples:
        >>> from cgn_augment.checks import require_amount
        >>> require_amount("ratio", 0.5)
        0.5
    """
    if not (math.isfinite(value) and value >= 0):
        raise ArgumentError(f"{name} must be 0 or more, got {value}")
    return value


def require_weights(config: object, *names: str) -> None:
    """Refuses settings of a dataclass that are not finite numbers of 0 or more.

    Args:
        config: the dataclass.
        names: names of the settings.
    """
    for name in names:
        require_amount(name, getattr(config, name))


def require_channels(name: str, values: float | Sequence[float]) -> Tensor:
    """Returns one number or three as (3,) float32, or raises an error that names the argument.

    Args:
        name: name of the argument, for the message.
        values: what the user gave.
    """
    try:
        tensor = torch.as_tensor(values, dtype=torch.float32).flatten()
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(f"{name} must be one number or three, got {values!r}") from error
    if tensor.numel() not in (1, 3) or not torch.isfinite(tensor).all():
        raise ArgumentError(f"{name} must be one number or three, got {values!r}")
    return tensor.expand(3).clone()
