"""How good a generator is: judges, metrics, and what a classifier learns from it."""

from train_generator.evaluation.appearance import (
    AppearanceJudge,
    cache_folder,
    load_appearance_judge,
    render_factor,
    train_appearance_judge,
)
from train_generator.evaluation.downstream import (
    DownstreamRun,
    run_downstream,
)
from train_generator.evaluation.judges import (
    JudgeConfig,
    ShapeJudge,
    judge_accuracy,
    load_shape_judge,
    predict,
    save_shape_judge,
    train_shape_judge,
)
from train_generator.evaluation.measure import (
    GeneratorMetrics,
    Judges,
    load_judges,
    measure_generator,
    measure_real,
)
from train_generator.evaluation.metrics import (
    accuracy,
    class_accuracies,
    coverage,
    diversity,
    mask_area,
    mask_entropy,
    pairwise_distance,
    tone_diversity,
)
from train_generator.evaluation.records import DownstreamConfig, DownstreamResult
from train_generator.evaluation.tables import (
    downstream_table,
    format_markdown,
    format_plain,
    metrics_table,
)

__all__ = [
    "AppearanceJudge",
    "DownstreamConfig",
    "DownstreamResult",
    "DownstreamRun",
    "GeneratorMetrics",
    "JudgeConfig",
    "Judges",
    "ShapeJudge",
    "accuracy",
    "cache_folder",
    "class_accuracies",
    "coverage",
    "diversity",
    "downstream_table",
    "format_markdown",
    "format_plain",
    "judge_accuracy",
    "load_appearance_judge",
    "load_judges",
    "load_shape_judge",
    "mask_area",
    "mask_entropy",
    "measure_generator",
    "measure_real",
    "metrics_table",
    "pairwise_distance",
    "predict",
    "render_factor",
    "run_downstream",
    "save_shape_judge",
    "tone_diversity",
    "train_appearance_judge",
    "train_shape_judge",
]
