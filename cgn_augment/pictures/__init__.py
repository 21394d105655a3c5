"""Labelled sheets of images, and animations."""
