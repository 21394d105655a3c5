"""Exceptions. Each is both a `CGNError` and the built-in error that fits."""

from __future__ import annotations


class CGNError(Exception):
    """Base of every error that this library raises on purpose."""


class ArgumentError(CGNError, ValueError):
    """An argument or a setting has a value that cannot be used."""


class ArgumentTypeError(CGNError, TypeError):
    """An argument has the wrong type."""


class CheckpointError(CGNError, ValueError):
    """Weights or a saved state are damaged, or do not belong here."""


class DataError(CGNError, ValueError):
    """Images, batches or shards are damaged, or not what was declared."""


class FileError(CGNError, OSError):
    """A file is missing, or cannot be written."""


class MissingPackageError(CGNError, ImportError):
    """An optional package is needed but not installed."""


class UsageError(CGNError, RuntimeError):
    """An object is used where it cannot work, such as on another device or inside a worker."""
