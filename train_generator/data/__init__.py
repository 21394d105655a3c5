"""The MNIST variants (colored, double colored, wildlife), with all they need to render offline."""

from train_generator.data.digits import Digits, load_digits
from train_generator.data.render import (
    render_colored,
    render_double_colored,
    render_wildlife,
)
from train_generator.data.textures import (
    Textures,
    dtd_textures,
    load_textures,
    procedural_textures,
)
from train_generator.data.variants import (
    VARIANTS,
    Variant,
    VariantData,
    make_variant,
)

__all__ = [
    "VARIANTS",
    "Digits",
    "Textures",
    "Variant",
    "VariantData",
    "dtd_textures",
    "load_digits",
    "load_textures",
    "make_variant",
    "procedural_textures",
    "render_colored",
    "render_double_colored",
    "render_wildlife",
]
