"""Exceptions: each is a `CGNError` and the built-in error that fits it."""

from __future__ import annotations


class CGNError(Exception):
    """Base of every error that this library raises on purpose."""


class ArgumentError(CGNError, ValueError):
    """An argument or a setting has a value that cannot be used."""


class ArgumentTypeError(CGNError, TypeError):
    """An argument is of a kind that cannot be used."""


class CheckpointError(CGNError, ValueError):
    """Weights or a saved state are damaged, or belong to something else."""


class DataError(CGNError, ValueError):
    """Images, batches or shards are damaged, or not as was declared."""


class FileError(CGNError, OSError):
    """A file is not where it was looked for, or cannot be written where it was to go."""


class MissingPackageError(CGNError, ImportError):
    """An optional package is needed and not installed."""


class UsageError(CGNError, RuntimeError):
    """A thing is used where it cannot work: on another device, or inside a worker."""
