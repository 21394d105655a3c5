"""Which epoch's weights a training keeps, by what the validation images say."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from train_generator.classifier.ensemble_config import EnsembleResult
from train_generator.classifier.training import GroupFields

Select = Literal["last", "average", "worst_group"]


def score_result(result: Any, select: Select) -> float:
    """Returns what an epoch is chosen by: the higher the better, and the later for `last`.

    Args:
        result: an `EpochResult` or an `EnsembleResult`, with or without `GroupFields`.
        select: what is the best.

    Examples:
        >>> from train_generator.classifier import EpochResult
        >>> from train_generator.classifier.selection import score_result
        >>> score_result(EpochResult(3, loss=0.1, train_accuracy=1.0, test_accuracy=0.7), "average")
        0.7
    """
    if select == "last":
        return float(result.epoch)
    if select == "worst_group" and isinstance(result, GroupFields):
        return result.worst_group_accuracy
    accuracy = result.accuracy if isinstance(result, EnsembleResult) else result.test_accuracy
    return float(accuracy)


class BestWeights:
    """The weights of the best epoch so far; of equal ones the first. A checkpoint keeps them.

    Args:
        model: whose weights they are.
        select: what is the best.

    Attributes:
        epoch: that they are of, counted from 1; 0 before the first.
        score: of that epoch.

    Examples:
        >>> import torch
        >>> from train_generator.classifier import EpochResult
        >>> from train_generator.classifier.selection import BestWeights
        >>> layer = torch.nn.Linear(1, 1)
        >>> best = BestWeights(layer, "average")
        >>> for epoch, accuracy in enumerate((0.5, 0.9, 0.7), start=1):
        ...     _ = layer.weight.data.fill_(epoch)
        ...     kept = best.offer(EpochResult(epoch, 0.1, 1.0, accuracy))
        >>> best.restore()
        >>> best.epoch, layer.weight.item()
        (2, 2.0)
    """

    def __init__(self, model: nn.Module, select: Select) -> None:
        self.select = select
        self.epoch, self.score = 0, float("-inf")
        self._model = model
        self._weights: dict[str, Tensor] = {}

    def offer(self, result: Any) -> bool:
        """Keeps the model's weights if the epoch that has just ended is the best; says whether."""
        score = score_result(result, self.select)
        if score <= self.score:
            return False
        self.epoch, self.score = result.epoch, score
        if self.select != "last":  # the model has these itself
            state = self._model.state_dict()
            self._weights = {name: value.cpu().clone() for name, value in state.items()}
        return True

    def restore(self) -> None:
        """Gives the model the best weights."""
        if self._weights:
            self._model.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """Returns epoch, score and weights."""
        return {"epoch": self.epoch, "score": self.score, "weights": self._weights}

    def load_state_dict(self, state: Any, /) -> None:
        """Goes on from what `state_dict` returned."""
        self.epoch, self.score = state["epoch"], state["score"]
        self._weights = state["weights"]
