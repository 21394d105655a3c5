"""Notices when weights change, for whatever is computed from them once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from torch import Tensor, nn

Form = TypeVar("Form")


class Watch:
    """Detects whether tensors still have the same memory and values.

    Examples:
        >>> import torch
        >>> from cgn_augment.generators.watch import Watch
        >>> weight = torch.zeros(2)
        >>> watch = Watch([weight])
        >>> watch.unchanged()
        True
        >>> _ = weight.add_(1)
        >>> watch.unchanged()
        False
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors
        self._seen = [_state(tensor) for tensor in tensors]

    def unchanged(self) -> bool:
        """Returns whether nothing has changed since it was made."""
        return self._seen == [_state(tensor) for tensor in self._tensors]


class FastForms(Generic[Form]):
    """Fast forms of layers: made when first asked for, and again when the weights have changed.

    Copies, in this process or another, start without any.

    Args:
        make: makes the fast form of layers.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from cgn_augment.generators.watch import FastForms
        >>> forms, layer = FastForms(lambda layer: layer.weight.sum().item()), nn.Linear(2, 2)
        >>> _ = nn.init.ones_(layer.weight)
        >>> forms.of(layer)
        4.0
    """

    def __init__(self, make: Callable[[nn.Module], Form]) -> None:
        self._make = make
        self._made: dict[nn.Module, tuple[Watch, Form]] = {}

    def __reduce__(self) -> tuple[type[FastForms[Form]], tuple[Callable[[nn.Module], Form]]]:
        return FastForms, (self._make,)

    def __len__(self) -> int:
        return len(self._made)

    def of(self, layers: nn.Module) -> Form:
        """Returns the fast form of layers.

        Args:
            layers: the layers; the same object at each call.
        """
        found = self._made.get(layers)
        if found is None or not found[0].unchanged():
            watch = Watch([*layers.parameters(), *layers.buffers()])
            found = self._made[layers] = watch, self._make(layers)
        return found[1]


def _state(tensor: Tensor) -> tuple[object, ...]:
    changes = 0 if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), tensor.dtype, tensor.device, changes
