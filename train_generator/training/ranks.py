"""The processes that train one network together, and how they agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks:
    """The processes of torch.distributed, or a single process, which sends nothing.

    All of them must construct it, at the same point. They agree over gloo, whatever the gradients
    use, so no GPU has to wait.

    Args:
        alone: this process does something without the others.

    Attributes:
        rank: rank of this process, from 0.
        num: number of processes.

    Examples:
        >>> from train_generator.training.ranks import Ranks
        >>> ranks = Ranks()
        >>> ranks.is_main, ranks.num, list(ranks.share(3))
        (True, 1, [0, 1, 2])
    """

    def __init__(self, *, alone: bool = False) -> None:
        together = not alone and dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.num = dist.get_world_size() if together else 1
        self._group: Any = dist.new_group(backend="gloo") if self.num > 1 else None

    @property
    def is_main(self) -> bool:
        """Whether this process writes what all have made together."""
        return self.rank == 0

    def share(self, num: int) -> range:
        """Returns this process's share of the indices 0 to `num` - 1: every `self.num`-th.

        Args:
            num: number of indices.
        """
        return range(self.rank, num, self.num)

    def any(self, flag: bool) -> bool:
        """Returns whether the flag is set in any process. All must call this, at the same point.

        Args:
            flag: the flag of this process.
        """
        return self.sum({"flag": float(flag)})["flag"] > 0

    def sum(self, values: Mapping[str, Tensor | float]) -> dict[str, float]:
        """Returns the sums of scalars over the processes, which all pass the same names.

        Args:
            values: scalars by name.
        """
        own = {name: float(value) for name, value in values.items()}
        if self._group is None:
            return own
        total = torch.tensor(list(own.values()), dtype=torch.float64)
        dist.all_reduce(total, group=self._group)
        return dict(zip(own, total.tolist(), strict=True))

    def mean(self, values: Mapping[str, Tensor | float]) -> dict[str, float]:
        """Returns the means of scalars over the processes, which all pass the same names.

        Args:
            values: scalars by name.
        """
        return {name: value / self.num for name, value in self.sum(values).items()}

    def wait(self) -> None:
        """Waits until all processes have come here."""
        if self._group is not None:
            dist.barrier(group=self._group)
