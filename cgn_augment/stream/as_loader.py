"""A stream as a `DataLoader` and its sampler, for clients that insist on them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, Sampler

from cgn_augment.errors import ArgumentTypeError

if TYPE_CHECKING:
    from cgn_augment.stream.dataset import CounterfactualDataset


class StreamSampler(Sampler[Any]):
    """The sampler of a stream's inner loader; its `set_epoch` sets the stream's epoch.

    Everything else comes from the inner sampler.

    Raises:
        ArgumentTypeError: it is iterated, but the real data has no sampler.

    Examples:
        >>> import torch
        >>> from cgn_augment import CounterfactualDataset, FreshSource
        >>> from cgn_augment.generators import SmallCGN
        >>> batch = torch.rand(4, 3, 32, 32) * 2 - 1, torch.arange(4)
        >>> train = CounterfactualDataset([batch], FreshSource(SmallCGN().freeze()))
        >>> train.sampler.set_epoch(3)
        >>> train.epoch
        3
    """

    def __init__(self, stream: CounterfactualDataset, sampler: Any) -> None:
        self._stream, self._sampler = stream, sampler

    def set_epoch(self, epoch: int) -> None:
        """As `CounterfactualDataset.set_epoch`."""
        self._stream.set_epoch(epoch)

    @property
    def epoch(self) -> int:
        """The epoch of the stream."""
        return self._stream.epoch

    def __iter__(self) -> Iterator[Any]:
        if self._sampler is None:
            raise ArgumentTypeError("the real data has no sampler that could be iterated")
        return iter(self._sampler)

    def __len__(self) -> int:
        return len(self._sampler)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._sampler, name)


class StreamLoader(DataLoader[Any]):
    """A stream as a `DataLoader`, for clients that insist on one: `stream.as_loader()`.

    Length, epoch, sampler and state are the stream's. A loader that a client rebuilds from it has
    the stream as its dataset, so it yields mixed batches too. `accelerator.prepare` returns it
    unchanged, since the stream knows its rank and device; `accelerator.save_state` and `load_state`
    include the stream's state.

    Args:
        stream: the stream to iterate.

    Examples:
        >>> import torch
        >>> from cgn_augment import CounterfactualDataset, FreshSource
        >>> from cgn_augment.generators import SmallCGN
        >>> batch = torch.rand(4, 3, 32, 32) * 2 - 1, torch.arange(4)
        >>> loader = CounterfactualDataset([batch], FreshSource(SmallCGN().freeze())).as_loader()
        >>> len(loader), loader.dataset.epoch
        (1, 0)
    """

    dataset: CounterfactualDataset
    _is_accelerate_prepared = True
    use_stateful_dataloader = True
    end_of_dataloader = False
    remainder = -1
    """The last four are attributes that Accelerate reads from a loader that it has prepared."""

    def __init__(self, stream: CounterfactualDataset) -> None:
        super().__init__(stream, batch_size=None)

    @property
    def sampler(self) -> StreamSampler:
        """The sampler; its `set_epoch` sets the stream's epoch."""
        return self.dataset.sampler

    @sampler.setter
    def sampler(self, value: object) -> None:
        """Ignores the sampler that `DataLoader` sets for an iterable dataset."""

    def set_epoch(self, epoch: int) -> None:
        """As `CounterfactualDataset.set_epoch`."""
        self.dataset.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """As `CounterfactualDataset.state_dict`."""
        return self.dataset.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As `CounterfactualDataset.load_state_dict`."""
        self.dataset.load_state_dict(state)

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = iter(self.dataset)
        accelerate = sys.modules.get("accelerate.state")
        if accelerate is None or not accelerate.GradientState._shared_state:
            return batches
        return self._tell_the_end(batches, accelerate.GradientState())

    def _tell_the_end(self, batches: Iterator[Any], gradients: Any) -> Iterator[Any]:
        """Marks the last batch, so that `accelerator.accumulate` steps on an incomplete group."""
        self.end_of_dataloader = False
        gradients._add_dataloader(self)
        try:
            yield from mark_the_end(batches, self.dataset, self)
        finally:
            gradients._remove_dataloader(self)


def mark_the_end(
    batches: Iterator[Any], stream: CounterfactualDataset, loader: Any
) -> Iterator[Any]:
    """Yields the batches, and marks the last one on a loader of Accelerate's kind."""
    for batch in batches:
        loader.end_of_dataloader = stream.is_at_end()
        yield batch
