"""Classifiers trained on counterfactuals, and the loop that trains them."""

from train_generator.classifier.ensemble import (
    HeadLogits,
    InvariantEnsemble,
    LoadedEnsemble,
    load_ensemble,
    make_ensemble,
    save_ensemble,
)
from train_generator.classifier.ensemble_config import (
    EnsembleConfig,
    EnsembleResult,
    learning_rate_at,
)
from train_generator.classifier.ensemble_losses import (
    EnsembleLosses,
    ensemble_loss,
    find_correct,
    forward_parts,
    use_batch_statistics,
)
from train_generator.classifier.ensemble_training import EnsembleRun
from train_generator.classifier.plain import (
    PlainClassifier,
    make_classifier,
    save_classifier,
)
from train_generator.classifier.plain_training import PlainRun
from train_generator.classifier.training import (
    ClassifierConfig,
    ClassifierRun,
    EpochResult,
    MNISTClassifier,
    OneCycleConfig,
    measure_accuracy,
    train_step,
)

__all__ = [
    "ClassifierConfig",
    "ClassifierRun",
    "EnsembleConfig",
    "EnsembleLosses",
    "EnsembleResult",
    "EnsembleRun",
    "EpochResult",
    "HeadLogits",
    "InvariantEnsemble",
    "LoadedEnsemble",
    "MNISTClassifier",
    "OneCycleConfig",
    "PlainClassifier",
    "PlainRun",
    "ensemble_loss",
    "find_correct",
    "forward_parts",
    "learning_rate_at",
    "load_ensemble",
    "make_classifier",
    "make_ensemble",
    "measure_accuracy",
    "save_classifier",
    "save_ensemble",
    "train_step",
    "use_batch_statistics",
]
