"""Classifiers that are trained on counterfactuals, and the loop that trains them."""

from train_generator.classifier.ensemble import (
    HeadLogits,
    InvariantEnsemble,
    LoadedEnsemble,
    load_ensemble,
    make_ensemble,
    save_ensemble,
)
from train_generator.classifier.models import MNISTClassifier
from train_generator.classifier.training import (
    ClassifierConfig,
    ClassifierRun,
    EpochResult,
    measure_accuracy,
    train_step,
)

__all__ = [
    "ClassifierConfig",
    "ClassifierRun",
    "EpochResult",
    "HeadLogits",
    "InvariantEnsemble",
    "LoadedEnsemble",
    "MNISTClassifier",
    "load_ensemble",
    "make_ensemble",
    "measure_accuracy",
    "save_ensemble",
    "train_step",
]
