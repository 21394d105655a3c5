"""The MNIST variants: data, judges, and measurements of their generators; needs no download."""

from train_generator.mnist.appearance import (
    AppearanceJudge,
    cache_folder,
    load_appearance_judge,
    render_factor,
    train_appearance_judge,
)
from train_generator.mnist.digits import Digits, load_digits
from train_generator.mnist.downstream import DownstreamRun, run_downstream
from train_generator.mnist.judges import (
    JudgeConfig,
    ShapeJudge,
    judge_accuracy,
    load_shape_judge,
    predict,
    save_shape_judge,
    train_shape_judge,
)
from train_generator.mnist.measure import (
    GeneratorMetrics,
    Judges,
    load_judges,
    measure_digits,
    measure_generator,
)
from train_generator.mnist.records import DownstreamConfig, DownstreamResult
from train_generator.mnist.render import render_colored, render_double_colored, render_wildlife
from train_generator.mnist.tables import downstream_table, metrics_table
from train_generator.mnist.textures import (
    Textures,
    dtd_textures,
    load_textures,
    procedural_textures,
)
from train_generator.mnist.variants import VARIANTS, Variant, VariantData, make_variant

__all__ = [
    "VARIANTS",
    "AppearanceJudge",
    "Digits",
    "DownstreamConfig",
    "DownstreamResult",
    "DownstreamRun",
    "GeneratorMetrics",
    "JudgeConfig",
    "Judges",
    "ShapeJudge",
    "Textures",
    "Variant",
    "VariantData",
    "cache_folder",
    "downstream_table",
    "dtd_textures",
    "judge_accuracy",
    "load_appearance_judge",
    "load_digits",
    "load_judges",
    "load_shape_judge",
    "load_textures",
    "make_variant",
    "measure_digits",
    "measure_generator",
    "metrics_table",
    "predict",
    "procedural_textures",
    "render_colored",
    "render_double_colored",
    "render_factor",
    "render_wildlife",
    "run_downstream",
    "save_shape_judge",
    "train_appearance_judge",
    "train_shape_judge",
]
