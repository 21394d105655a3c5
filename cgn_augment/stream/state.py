"""The position of a stream in its epochs, and the checks of a saved one."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import shorten
from typing import Any, NamedTuple

from cgn_augment.errors import CheckpointError

STATE_VERSION = 2

_MOST = 2**62


class Position(NamedTuple):
    """The position of a stream.

    Attributes:
        epoch: counted from 0.
        step: steps done in the epoch.
        total: steps before this one over all epochs; earlier epochs count in full if the length is
            known.
        carry: fraction of a counterfactual left for the next step, in 1/UNIT.
    """

    epoch: int
    step: int
    total: int
    carry: int


def require_state(state: Mapping[str, Any], fingerprint: Mapping[str, str]) -> None:
    """Refuses a state that `state_dict()` of a stream with this fingerprint did not return.

    Raises:
        CheckpointError: the state is damaged, or belongs to another version or configuration.
    """
    version = state.get("version") if isinstance(state, Mapping) else type(state).__name__
    if version != STATE_VERSION:
        raise CheckpointError(
            f"not a state of this version of CounterfactualDataset: expected version "
            f"{STATE_VERSION}, got {shorten(repr(version), 90)}"
        )
    for key in (*Position._fields, "real", "fingerprint"):
        if key not in state:
            raise CheckpointError(
                f"the state is damaged: expected what state_dict() returned, and {key!r} is missing"
            )
    for key in Position._fields:
        least = -_MOST if key == "carry" else 0  # the carry may be negative
        value = state[key]
        if type(value) is not int or not least <= value <= _MOST:
            raise CheckpointError(
                f"the state is damaged: {key} must be an integer of {least} or more, got "
                f"{shorten(repr(value), 90)}"
            )
    then = state["fingerprint"]
    for key in ("real", "fingerprint"):
        if not isinstance(state[key], Mapping):
            raise CheckpointError(
                f"the state is damaged: {key} must be a dictionary, got "
                f"{shorten(repr(state[key]), 90)}"
            )
    differing = [
        f"{key}: {shorten(repr(then.get(key)), 200)} then, {now!r} now"
        for key, now in fingerprint.items()
        if then.get(key) != now
    ]
    if differing:
        raise CheckpointError(
            f"the state belongs to another configuration ({'; '.join(differing)}): make the stream "
            "as it was when the state was saved"
        )
