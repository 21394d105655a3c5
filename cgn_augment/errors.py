"""Exceptions: each is a `CGNError` and the built-in error that fits it."""

from __future__ import annotations


class CGNError(Exception):
    """Base of every error that this library raises on purpose."""


class ArgumentError(CGNError, ValueError):
    """An argument has a value that cannot be used."""


class ArgumentTypeError(CGNError, TypeError):
    """An argument is of a kind that cannot be used."""


class BatchError(CGNError, ValueError):
    """A batch of the real data does not look as was declared."""


class CheckpointError(CGNError, ValueError):
    """A checkpoint is damaged, or is not one of a CGN."""


class CheckpointNotFoundError(CGNError, FileNotFoundError):
    """There is no checkpoint of that name or at that path."""


class ClassMapError(CGNError, ValueError):
    """A class or label has no place in the class map."""


class DataError(CGNError, ValueError):
    """A data file or folder is missing, damaged, or laid out differently."""


class DeviceError(CGNError, RuntimeError):
    """Two parts live on different devices, or the device is not there."""


class MissingPackageError(CGNError, ImportError):
    """An optional package is needed and not installed."""


class ShardError(CGNError, ValueError):
    """A set of shards is damaged, is incomplete, or is another one than was asked for."""


class ShardWriteError(CGNError, OSError):
    """A set of shards cannot be written where it was to go."""


class StateError(CGNError, ValueError):
    """A saved state belongs to another configuration, or is damaged."""


class WorkerError(CGNError, RuntimeError):
    """The stream is iterated where it must not be."""
