"""The number of counterfactuals of each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Literal

from cgn_augment.checks import require_count
from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.functional import UNIT

Mix = Literal["append", "replace", "separate"]
Schedule = Callable[[int], float]
"""Takes the step, counted over all epochs from 0, and returns the ratio."""


@dataclass(frozen=True)
class OffAfter:
    """A schedule: `ratio` for the first `num_steps` steps, then no counterfactuals.

    Use it like switching mixup off for the last epochs.

    Args:
        ratio: counterfactuals per real image in the first steps.
        num_steps: number of these steps.

    Examples:
        >>> from cgn_augment import OffAfter
        >>> schedule = OffAfter(1.0, num_steps=100)
        >>> schedule(99), schedule(100)
        (1.0, 0.0)
    """

    ratio: float
    num_steps: int

    def __call__(self, step: int) -> float:
        """Returns the ratio at `step`."""
        return self.ratio if step < self.num_steps else 0.0


@dataclass(frozen=True)
class Ramp:
    """A schedule: linear from `start` to `end` over `num_steps` steps, then `end`.

    Args:
        start: ratio at step 0.
        end: ratio from step `num_steps` on.
        num_steps: number of steps in between.

    Examples:
        >>> from cgn_augment import Ramp
        >>> [Ramp(0.0, 1.0, num_steps=4)(step) for step in (0, 2, 4, 9)]
        [0.0, 0.5, 1.0, 1.0]
    """

    start: float
    end: float
    num_steps: int

    def __call__(self, step: int) -> float:
        """Returns the ratio at `step`."""
        done = min(1.0, step / self.num_steps) if self.num_steps > 0 else 1.0
        return self.start + (self.end - self.start) * done


class Proportion:
    """The share of counterfactuals, given in one of three ways; the others are derived.

    Args:
        ratio: counterfactuals per real image, a number or a schedule over steps.
        count: counterfactuals per step.
        fraction: share of the batch that is counterfactual.
        mix: "append" and "separate" keep every real image; "replace" keeps the batch's size.
        batch_size: real images per step if known, to derive the others.
        batch_multiple: makes the images of a step, real and counterfactual, a multiple of this.
            Later steps make up for the counterfactuals that a step gets too many or too few.

    Raises:
        ArgumentError: more than one of the three is given, or one is negative, NaN or infinite; a
            fraction is above 1, or is 1 although real images are kept; or batch_multiple cannot be
            kept.
        ArgumentTypeError: a value is not a number.

    Examples:
        >>> from cgn_augment.stream.mixing import Proportion
        >>> Proportion(fraction=0.25, mix="append", batch_size=48)
        Proportion(ratio=0.3333, count=16, fraction=0.25)
    """

    def __init__(
        self,
        ratio: float | Schedule | None = None,
        count: float | None = None,
        fraction: float | None = None,
        *,
        mix: Mix = "append",
        batch_size: int | None = None,
        batch_multiple: int = 1,
    ) -> None:
        given = {"ratio": ratio, "count": count, "fraction": fraction}
        chosen = [name for name, value in given.items() if value is not None]
        if len(chosen) > 1:
            raise ArgumentError(
                f"give one of ratio, count and fraction, got {' and '.join(chosen)}: the others "
                "follow from it"
            )
        self.mix, self.batch_size = mix, batch_size
        self.batch_multiple = require_count("batch_multiple", batch_multiple)
        if batch_multiple > 1 and mix != "append":
            raise ArgumentError(
                f"batch_multiple={batch_multiple} is for mix='append': mix={mix!r} leaves batches "
                "as large as the real ones, so make batch_size a multiple of it, with "
                "drop_last=True"
            )
        self.schedule: Schedule | None = None
        self.ratio: float | None = None
        self.count: float | None = None
        self.fraction: float | None = None
        self._per_image = self._per_step = 0
        if count is not None:
            self._set_count(_read("count", count))
        elif fraction is not None:
            self._set_fraction(_read("fraction", fraction))
        elif isinstance(ratio, type) and "__call__" in vars(ratio):
            raise ArgumentTypeError(
                f"ratio is the class {ratio.__name__}: pass a schedule made of it, "
                f"{ratio.__name__}(…)"
            )
        elif callable(ratio):
            self.schedule = ratio
        else:
            self._set_fraction(_read_ratio("ratio", 1.0 if ratio is None else ratio))
        if batch_size is not None and self.schedule is None:
            self.require_epoch([batch_size])

    def __repr__(self) -> str:
        if self.schedule is not None:
            return f"Proportion(ratio={self.schedule!r})"
        known = {"ratio": self.ratio, "count": self.count, "fraction": self.fraction}
        shown = [f"{name}={value:.4g}" for name, value in known.items() if value is not None]
        return f"Proportion({', '.join(shown)})"

    @property
    def key(self) -> str:
        """Identifies the proportion in the fingerprint of a saved state."""
        multiple = f" to {self.batch_multiple}" if self.batch_multiple > 1 else ""
        if self.schedule is None:
            return f"{self._per_image}+{self._per_step}{multiple}"
        named = hasattr(self.schedule, "__qualname__")
        return f"schedule {self.schedule.__qualname__ if named else self.schedule!r}{multiple}"

    def split(self, step: int, num_real: int, carry: int) -> tuple[int, int]:
        """Returns the number of counterfactuals at `step` and the new carry, in 1/UNIT."""
        per_image = self._per_image
        if self.schedule is not None:
            name = f"the ratio's schedule at step {step}"
            per_image = self._share(_read_ratio(name, self.schedule(step)))
        share = per_image * num_real + self._per_step
        if self.batch_multiple > 1:
            return self._round(share, num_real, carry)
        num, carry = divmod(carry + share, UNIT)
        if self.mix == "replace" and num > num_real:
            raise ArgumentError(
                f"mix='replace' cannot put {num} counterfactuals into a batch of {num_real}: lower "
                "count to the batch size, or use mix='append'"
            )
        return num, carry

    def carry_after(self, batch_sizes: Iterable[int], step: int = 0, carry: int = 0) -> int:
        """Returns the carry after steps, from `step` on, with these numbers of real images."""
        if self.schedule is None and not self._per_step and self.batch_multiple == 1:
            return (carry + sum(batch_sizes) * self._per_image) % UNIT
        for place, num_real in enumerate(batch_sizes, step):
            carry = self.split(place, num_real, carry)[1]
        return carry

    def require_epoch(self, batch_sizes: Sequence[int]) -> None:
        """Refuses, in advance, an epoch in which some batch cannot be made a multiple.

        Args:
            batch_sizes: number of real images of each step.

        Raises:
            ArgumentError: the batches need more counterfactuals than the ratio gives, or may need
                more, as with a schedule.
        """
        needed = sum(-num_real % self.batch_multiple for num_real in batch_sizes)
        due = self._per_image * sum(batch_sizes) + self._per_step * len(batch_sizes)
        if needed == 0 or (self.schedule is None and due >= needed * UNIT):
            return
        short = next(size for size in batch_sizes if size % self.batch_multiple)
        given = "a schedule may give none" if self.schedule else f"the ratio gives {due / UNIT:.3g}"
        raise ArgumentError(
            f"batch_multiple={self.batch_multiple}: batches of {short} real images need at least "
            f"{needed} counterfactuals, and {given}: pass drop_last=True, make batch_size a "
            "multiple, or raise the ratio"
        )

    def _round(self, share: int, num_real: int, carry: int) -> tuple[int, int]:
        """Returns how many make the batch a multiple, and the carry, which may be negative."""
        multiple = self.batch_multiple
        least = -num_real % multiple
        due = carry + share
        num = max(least, least + (due // UNIT - least) // multiple * multiple)
        carry = due - num * UNIT
        if least and (share == 0 or carry < -multiple * UNIT):
            raise ArgumentError(
                f"batch_multiple={multiple}: a batch of {num_real} real images needs at least "
                f"{least} counterfactuals, and the ratio gives {share / UNIT:.3g}: pass "
                "drop_last=True, make batch_size a multiple, or raise the ratio"
            )
        return num, carry

    def _share(self, fraction: Fraction) -> int:
        """Returns counterfactuals per image read, in 1/UNIT."""
        return _in_units(fraction if self.mix == "replace" else fraction / (1 - fraction))

    def _set_fraction(self, fraction: Fraction) -> None:
        if fraction > 1 or (fraction == 1 and self.mix != "replace"):
            raise ArgumentError(
                f"fraction must be below 1 with mix={self.mix!r}, which keeps every real image, "
                f"and at most 1 with mix='replace'; got {float(fraction)} (it is no percentage)"
            )
        self._per_image = self._share(fraction)
        self.ratio = float(fraction / (1 - fraction)) if fraction < 1 else math.inf
        self.fraction = float(fraction)
        if self.batch_size is not None:
            self.count = self._per_image * self.batch_size / UNIT

    def _set_count(self, count: Fraction) -> None:
        self.count = float(count)
        self._per_step = _in_units(count)
        if self.batch_size is None:
            return
        self.split(0, self.batch_size, UNIT - 1)  # the most that a batch can get
        kept = Fraction(self.batch_size)
        if self.mix == "replace":  # a smaller last batch gets proportionally fewer
            self._per_image, self._per_step = _in_units(count / self.batch_size), 0
            kept -= count
        self.ratio = float(count / kept) if kept else math.inf
        self.fraction = float(count / (kept + count))


def _in_units(share: Fraction) -> int:
    """Rounds up to 1/UNIT: rounded down, a third of 48 would give 15 in the first step."""
    return math.ceil(share * UNIT)


def _read(name: str, value: object) -> Fraction:
    """Reads 0.1 as one tenth, not as the nearest binary number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ArgumentTypeError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value) or value < 0:
        raise ArgumentError(f"{name} must be finite and 0 or more, got {value}")
    return Fraction(float(value)).limit_denominator(10**6)


def _read_ratio(name: str, value: object) -> Fraction:
    ratio = _read(name, value)
    return ratio / (1 + ratio)
