"""Labelled sheets of images, and animations."""

from cgn_augment.pictures.animation import write_animation
from cgn_augment.pictures.sheets import draw_sheet, save_figure

__all__ = ["draw_sheet", "save_figure", "write_animation"]
