"""The processes that train one network together, and what they must agree on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor


class Ranks:
    """One process or several; with one, nothing is ever sent.

    Args:
        accelerator: knows the processes; None is one process.

    Attributes:
        rank: of this process, from 0.
        num: of processes.

    Example:
        >>> from train_generator.training.ranks import Ranks
        >>> ranks = Ranks()
        >>> ranks.is_main, ranks.num, list(ranks.share(3))
        (True, 1, [0, 1, 2])
    """

    def __init__(self, accelerator: Accelerator | None = None) -> None:
        self.accelerator = accelerator
        self.rank = 0 if accelerator is None else accelerator.process_index
        self.num = 1 if accelerator is None else accelerator.num_processes

    @property
    def is_main(self) -> bool:
        """Whether this process writes what the processes have made together."""
        return self.rank == 0

    def share(self, num: int) -> range:
        """Returns which of `num` things this process does; every `num`-th from its rank on."""
        return range(self.rank, num, self.num)

    def any(self, flag: bool) -> bool:
        """Returns whether any process says so. All must ask, at the same place."""
        if self.accelerator is None or self.num == 1:
            return flag
        said = torch.tensor(float(flag), device=self.accelerator.device)
        return float(self.accelerator.reduce(said, "sum")) > 0

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Returns the means of scalars over the processes, which all give the same names."""
        if self.accelerator is None or self.num == 1:
            return {name: float(value) for name, value in values.items()}
        stacked = torch.stack([value.float() for value in values.values()])
        means = self.accelerator.reduce(stacked.to(self.accelerator.device), "mean")
        return dict(zip(values, means.tolist(), strict=True))

    def wait(self) -> None:
        """Waits until all processes are here."""
        if self.accelerator is not None and self.num > 1:
            self.accelerator.wait_for_everyone()
