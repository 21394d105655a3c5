"""Memory of weights: whether they have any, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_MAKERS = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)


@contextmanager
def without_memory() -> Iterator[None]:
    """Makes networks inside the block without memory for weights; load weights afterwards.

    Examples:
        >>> import torch
        >>> from cgn_augment.generators.layout import without_memory
        >>> with without_memory():
        ...     layer = torch.nn.Linear(10**6, 10**6)
        >>> layer.weight.device.type
        'meta'
    """
    with torch.device("meta"), _NothingDrawn():
        yield


class _NothingDrawn(TorchFunctionMode):
    """Skips initial weights: without memory, drawing them would import torch's compiler."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func in (nn.init.normal_, Tensor.normal_, F.normalize):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def at_most(num: int) -> Iterator[None]:
    """Refuses to make networks of more than `num` values inside the block, before they are drawn.

    A network that a file describes in words, such as by the name of a backbone, would else take
    memory that the file's size does not warrant. `without_memory` is better where the network can
    be made so; those of other libraries often cannot.

    Args:
        num: most values of all tensors together.

    Raises:
        ValueError: the network has more.

    Examples:
        >>> import torch
        >>> from cgn_augment.generators.layout import at_most
        >>> with at_most(1000):
        ...     layer = torch.nn.Linear(10**6, 10**6)
        Traceback (most recent call last):
        ...
        ValueError: the network has more values than the 1000 that there can be
    """
    with _Counted(num):
        yield


class _Counted(TorchFunctionMode):
    """Counts the values of new tensors before they are made."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.num = most, 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in _MAKERS and given.get("out") is None:
            without = {name: value for name, value in given.items() if name != "generator"}
            self.num += func(*args, **{**without, "device": "meta"}).numel()
            if self.num > self.most:
                raise ValueError(
                    f"the network has more values than the {self.most} that there can be"
                )
        return func(*args, **given)


@torch.no_grad()
def put_channels_last(module: nn.Module) -> None:
    """Stores the weights of all convolutions channels last, in the memory that they have.

    Convolutions are then faster: on a CPU by about a sixth in the two ImageNet networks.
    `Module.to(memory_format=…)` would use new memory; with weights mapped from a file, both copies
    would be held.

    Examples:
        >>> import torch
        >>> from cgn_augment.generators.layout import put_channels_last
        >>> layer = torch.nn.Conv2d(2, 4, 3)
        >>> at, expected = layer.weight.data_ptr(), layer.weight.clone()
        >>> put_channels_last(layer)
        >>> layer.weight.is_contiguous(memory_format=torch.channels_last)
        True
        >>> layer.weight.data_ptr() == at, torch.equal(layer.weight, expected)
        (True, True)
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and part.weight.is_contiguous():
            weight = part.weight.data
            ordered = weight.clone(memory_format=torch.channels_last)
            part.weight.data = weight.as_strided(ordered.size(), ordered.stride()).copy_(ordered)
