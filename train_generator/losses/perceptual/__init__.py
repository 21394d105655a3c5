"""The perceptual loss of a CGN, and the frozen networks that its features may come from."""

from train_generator.losses.perceptual.choice import FeatureKind, make_features
from train_generator.losses.perceptual.features import (
    PerceptualFeatures,
    perceptual_loss,
    released_gram_weights,
)
from train_generator.losses.perceptual.trained import train_features
from train_generator.losses.perceptual.vgg16 import load_vgg16_features, random_vgg16_features

__all__ = [
    "FeatureKind",
    "PerceptualFeatures",
    "load_vgg16_features",
    "make_features",
    "perceptual_loss",
    "random_vgg16_features",
    "released_gram_weights",
    "train_features",
]
