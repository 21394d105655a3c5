"""`CounterfactualDataset` and the pieces that make its steps."""

from cgn_augment.stream.dataset import CounterfactualDataset
from cgn_augment.stream.mixing import OffAfter, Ramp
from cgn_augment.stream.transforms import MatchReal, match_real

__all__ = ["CounterfactualDataset", "MatchReal", "OffAfter", "Ramp", "match_real"]
