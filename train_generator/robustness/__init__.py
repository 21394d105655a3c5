"""What a classifier's decisions depend on: shape or texture, the background, each factor."""

from train_generator.robustness.bias import (
    ShapeBias,
    background_gap,
    group_predictions,
    group_probabilities,
    shape_bias,
)
from train_generator.robustness.folders import (
    ImageFiles,
    find_cue_conflicts,
    find_imagenet9,
    label_images,
)
from train_generator.robustness.group_report import draw_groups, make_group_table
from train_generator.robustness.grouped import GroupedImages, find_grouped_images
from train_generator.robustness.groups import (
    ClassGroups,
    cue_conflict_categories,
    imagenet9_classes,
    read_groups,
)
from train_generator.robustness.measure import (
    EvaluationConfig,
    measure_cue_conflict,
    measure_groups,
    measure_imagenet9,
    measure_real,
)
from train_generator.robustness.parts import (
    EvaluationData,
    Part,
    find_class_map,
    make_parts,
)
from train_generator.robustness.predictors import (
    Cropping,
    Predictor,
    ensemble_predictor,
    load_predictor,
    plain_predictor,
)
from train_generator.robustness.record import EvaluationRecord
from train_generator.robustness.report import (
    draw_changes,
    draw_pictures,
    draw_shape_bias,
    draw_shares,
    make_tables,
)
from train_generator.robustness.sensitivity import (
    ChangedImages,
    FactorMeasures,
    FactorShares,
    change_factors,
    factor_sensitivity,
    measure_changes,
    measure_factors,
)

__all__ = [
    "ChangedImages",
    "ClassGroups",
    "Cropping",
    "EvaluationConfig",
    "EvaluationData",
    "EvaluationRecord",
    "FactorMeasures",
    "FactorShares",
    "GroupedImages",
    "ImageFiles",
    "Part",
    "Predictor",
    "ShapeBias",
    "background_gap",
    "change_factors",
    "cue_conflict_categories",
    "draw_changes",
    "draw_groups",
    "draw_pictures",
    "draw_shape_bias",
    "draw_shares",
    "ensemble_predictor",
    "factor_sensitivity",
    "find_class_map",
    "find_cue_conflicts",
    "find_grouped_images",
    "find_imagenet9",
    "group_predictions",
    "group_probabilities",
    "imagenet9_classes",
    "label_images",
    "load_predictor",
    "make_group_table",
    "make_parts",
    "make_tables",
    "measure_changes",
    "measure_cue_conflict",
    "measure_factors",
    "measure_groups",
    "measure_imagenet9",
    "measure_real",
    "plain_predictor",
    "read_groups",
    "shape_bias",
]
