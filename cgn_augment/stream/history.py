"""The position of a stream in its epochs: when an epoch begins and ends, and what was loaded."""

from __future__ import annotations

import copy
import logging
from itertools import chain, repeat
from typing import Any

from cgn_augment.errors import CheckpointError
from cgn_augment.stream.loaders import RealData
from cgn_augment.stream.mixing import Proportion
from cgn_augment.stream.state import Position

logger = logging.getLogger(__name__)


class History:
    """Moves a stream's position through its epochs.

    An iterator that has yielded something is one epoch, whether complete or dropped. Only the
    newest iterator sets the position of the stream.

    Attributes:
        position: of the batch yielded last, or the start of the next epoch.
        knows_epoch: whether a client has set the epoch, or a batch was yielded.
    """

    def __init__(self, real: RealData, proportion: Proportion) -> None:
        self._real, self._proportion = real, proportion
        self.position = Position(0, 0, 0, 0)
        self.knows_epoch = False
        self._loaded: Any = None
        self._read: Any = None
        self._current: object | None = None
        self._left: object | None = None
        self._known = Position(0, 0, 0, 0)  # a place whose carry is known
        self._sampler_epoch = getattr(real.sampler, "epoch", None)
        self._may_ask_for_length = False

    @property
    def loaded_step(self) -> int:
        """The step to continue at after a load, else 0."""
        return 0 if self._loaded is None else self.position.step

    @property
    def is_under_way(self) -> bool:
        """Whether the position is inside an epoch that an iterator began here."""
        return self._current is not None

    @property
    def is_placed(self) -> bool:
        """Whether the steps before the position are known; if not, `bind` counts them."""
        return self._may_ask_for_length or self._loaded is not None or self.position.epoch == 0

    def copy(self, real: RealData) -> History:
        """Returns a separate history at the same place, for a copy of the real data."""
        twin = copy.copy(self)
        twin._real = real
        return twin

    def state(self) -> dict[str, Any]:
        """Returns the position, and what the real data needs to continue there."""
        real = self._read if self._loaded is None else self._loaded
        if real is None:
            real = self._real.state(started=self._current is not None)
        return {**self.position._asdict(), "real": real}

    def load(self, state: dict[str, Any]) -> None:
        """Moves to the position where `state` was saved."""
        self._current, self._left, self._read, self.knows_epoch = None, None, None, True
        self._loaded = state["real"]
        self.position = Position(**{name: state[name] for name in Position._fields})
        self._known = self.position

    def set_epoch(self, epoch: int) -> None:
        """Moves to the start of an epoch, or keeps the place that was loaded inside it.

        If an iterator of this same epoch continues, the stream follows it again.
        """
        self.knows_epoch = True
        if self._loaded is not None:
            if epoch == self.position.epoch:
                return
            if epoch > self.position.epoch:
                self._real.jump(self._loaded)
            else:
                logger.warning(
                    "set_epoch(%d) leaves the place that was loaded, which is step %d of epoch %d",
                    epoch,
                    self.position.step,
                    self.position.epoch,
                )
        left = (self._current or self._left) if epoch == self.position.epoch else None
        self._go_to(epoch)
        self._left = left

    def bind(self) -> None:
        """Counts the steps before the position, once rank and length are known."""
        if not self._may_ask_for_length:
            self._may_ask_for_length = True
            if self._loaded is None:
                self._go_to(self.position.epoch)

    def leave_a_begun_epoch(self) -> None:
        """Moves to the next epoch if an iterator has yielded something of this one."""
        epoch = getattr(self._real.sampler, "epoch", None)
        if isinstance(epoch, int) and epoch != self._sampler_epoch:
            # Another library has called `set_epoch` on the sampler itself.
            self._sampler_epoch = epoch
            self.set_epoch(epoch)
        if self._loaded is None and self.position.step > 0:
            self._go_to(self.position.epoch + 1)

    def begin(self) -> tuple[object, Position, Any]:
        """Returns a token for a new iterator, its start, and what was loaded for it."""
        self.leave_a_begun_epoch()  # another iterator may have run since `iter`
        num_steps = None if self._loaded is None else self._real.num_steps()
        if num_steps is not None and self.position.step > num_steps:
            raise CheckpointError(
                f"the state is of step {self.position.step} and an epoch has {num_steps} here: it "
                "is damaged, or of other data"
            )
        token = self._current = object()
        loaded, self._loaded, self._left, self._read = self._loaded, None, None, None
        return token, self.position, loaded

    def note_sampler(self) -> None:
        """Records the epoch that the real data itself gave its sampler."""
        self._sampler_epoch = getattr(self._real.sampler, "epoch", None)

    def advance(self, token: object, position: Position, read: Any = None) -> None:
        """Moves on: the iterator of this token is about to yield a batch.

        `read` is the state of the real data after that batch, if more has been read since.
        """
        # If there is no length, Lightning reads one batch ahead and sets the epoch after that.
        if self._left is token:
            self._current, self._left = token, None
        if self._current is token:
            self.position, self._read, self.knows_epoch = position, read, True

    def complete(self, token: object, position: Position) -> None:
        """Moves on: the iterator of this token has ended."""
        if self._current is token:
            if self._real.batch_sizes() is not None:
                self._known = Position(position.epoch + 1, 0, 0, position.carry)
            self._go_to(position.epoch + 1)

    def _go_to(self, epoch: int) -> None:
        """Moves to the start of an epoch."""
        self._current, self._left, self._loaded, self._read = None, None, None, None
        total, carry = self.position.total, self.position.carry
        if self._may_ask_for_length:
            num_steps, sizes = self._real.num_steps(), self._real.batch_sizes()
            if num_steps is not None:
                total = epoch * num_steps
            if sizes is not None:
                at = self._known if self._known[:2] <= (epoch, 0) else Position(0, 0, 0, 0)
                whole = chain.from_iterable(repeat(sizes, max(0, epoch - at.epoch - 1)))
                ahead = chain(sizes[at.step :], whole) if at.epoch < epoch else ()
                start = at.epoch * len(sizes) + at.step
                carry = self._proportion.carry_after(ahead, start, at.carry)
                self._known = Position(epoch, 0, 0, carry)
        self.position = Position(epoch, 0, total, carry)
