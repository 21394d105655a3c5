"""Classifiers that are trained on counterfactuals, and the loop that trains them."""

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
    "MNISTClassifier",
    "measure_accuracy",
    "train_step",
]
