"""Losses, perceptual features, patches and discriminators."""
