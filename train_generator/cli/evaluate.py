"""The command that evaluates classifiers; `train_generator.cli.program` runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cgn_augment import load_cgn
from cgn_augment.errors import ArgumentError
from cgn_augment.files import owning
from cgn_augment.pictures.sheets import save_figure
from train_generator.classifier.ensemble_data import Class
from train_generator.metrics.tables import Format, format_table
from train_generator.robustness.folders import (
    find_cue_conflicts,
    find_imagenet9,
    find_real_images,
)
from train_generator.robustness.grouped import find_grouped_images
from train_generator.robustness.measure import EvaluationConfig
from train_generator.robustness.parts import (
    FACTOR,
    PARTS,
    EvaluationData,
    Part,
    find_class_map,
    make_parts,
)
from train_generator.robustness.predictors import Predictor, load_predictor
from train_generator.robustness.record import EvaluationRecord, Rows
from train_generator.robustness.report import (
    draw_changes,
    draw_pictures,
    make_tables,
    say_what_lacks,
)


def evaluate(
    classifiers: list[str] | str,
    cue_conflict: str | None = None,
    in9: str | None = None,
    real: str | None = None,
    groups: str | None = None,
    cgn: str | None = None,
    out: str = "runs/evaluation",
    num: int = 1000,
    truncation: float | None = None,
    class_map: dict[str, Class | list[Class]] | Literal["names"] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    num_workers: int = 0,
    device: str = "cpu",
    table: Format = "markdown",
) -> None:
    """Measures shape bias, background gap, accuracy, worst group and sensitivity to each factor.

    Each of --cue-conflict, --in9, --real, --groups and --cgn adds a part; at least one is needed.
    Each result is written to OUT at once: repeat the command after Ctrl-C, and it continues with
    the next part.

    Args:
        classifiers: an ensemble (.safetensors), a checkpoint of examples/invariant_mnist.py (.pt),
            or a pretrained classifier of torchvision or timm by name, such as resnet50,
            resnet50.IMAGENET1K_V1 or timm/NAME, also with weights of a file: resnet50=FILE; or
            several: '[ONE, TWO]'.
        cue_conflict: folder of the cue-conflict images of Geirhos et al., for the shape bias.
        in9: folder of ImageNet-9 (bg_challenge), for the background gap and all its variants.
        real: validation images, for the accuracy: a folder with one folder per class, a table, or a
            benchmark's layout, such as waterbirds:PATH; if it has splits, the test images.
        groups: waterbirds:PATH, spawrious:PATH@BENCHMARK, urbancars:PATH, or table:FILE.csv with a
            column group, for the accuracy by group, the worst group and the averages.
        cgn: path of a checkpoint or name of a bundled generator, for the accuracy on
            counterfactuals and the sensitivity to each factor.
        out: folder of evaluation.json and the pictures.
        num: number of counterfactuals; three changed images are drawn for each.
        truncation: ImageNet CGN only: above 0 and at most 1; 1 by default.
        class_map: classes of the classifier to those of the CGN, unless they are the same or follow
            from the labels' names: '{cat: [281, 282], 1: golden_retriever}'; or names.
        seed: seed of the counterfactuals.
        batch_size: images per call of a classifier.
        num_workers: processes that read images; 0 reads them in this one.
        device: where to run, such as cpu or cuda.
        table: as plain text or as Markdown.
    """
    config = EvaluationConfig(batch_size, num_workers, progress=True)
    bias = None if cue_conflict is None else find_cue_conflicts(Path(cue_conflict))
    gap = None if in9 is None else find_imagenet9(Path(in9))
    accuracy = None if real is None else (Path(real), find_real_images(real))
    grouped = None if groups is None else find_grouped_images(groups)
    network = None if cgn is None else load_cgn(cgn, device=device, truncation=truncation)
    data = EvaluationData(bias, gap, accuracy, grouped, network, class_map, num, seed)
    predictors = load_predictors(classifiers, device)
    parts = {name: make_parts(predictor, data, config) for name, predictor in predictors.items()}
    folder = Path(out)
    with owning(folder):  # two records in one file would lose rows
        measured = run_parts(parts, EvaluationRecord(folder / "evaluation.json"))
        for part in (name for name in PARTS if name in measured):
            for title, rows in make_tables(part, measured[part]).items():
                print(f"\n{title}\n\n{format_table(rows, table)}")
            for line in say_what_lacks(part, measured[part]):
                print(f"\n{line}")
            for name, figure in draw_pictures(part, measured[part]).items():
                print(f"\npicture: {save_figure(figure, folder / f'{name}.png')}")
        if network is not None and FACTOR in measured:
            first = next(iter(predictors.values()))
            changes = draw_changes(network, find_class_map(first, network, data.class_map), seed)
            print(f"picture: {save_figure(changes, folder / 'changes.png')}")
    print(f"\n{folder / 'evaluation.json'}")


def load_predictors(classifiers: list[str] | str, device: str = "cpu") -> dict[str, Predictor]:
    """Loads classifiers by name; a file is called by its own name if that is unique.

    Raises:
        ArgumentError: there is none, or one occurs twice; or any error of `load_predictor`.
    """
    given = [classifiers] if isinstance(classifiers, str) else classifiers
    if not given or len(set(given)) < len(given):
        raise ArgumentError(f"name one classifier or more, and each once; got {given}")
    short = [name if name.startswith("timm/") else Path(name).name for name in given]
    names = short if len(set(short)) == len(short) else given
    return {name: load_predictor(path, device) for name, path in zip(names, given, strict=True)}


def run_parts(parts: dict[str, list[Part]], record: EvaluationRecord) -> dict[str, dict[str, Rows]]:
    """Measures the parts of each classifier that the record lacks, and adds them.

    Returns:
        The results by part and classifier.

    Raises:
        CheckpointError: the record has a part with other settings; nothing is measured then.
        KeyboardInterrupt: Ctrl-C; the message says where the next call continues.
    """
    known = [
        (classifier, part, record.find(classifier, part.name, part.settings))
        for classifier, each in parts.items()
        for part in each
    ]
    measured: dict[str, dict[str, Rows]] = {}
    for classifier, part, rows in known:
        if rows is None:
            try:
                rows = part.measure()
            except KeyboardInterrupt:
                raise KeyboardInterrupt(
                    f"the same command goes on with {part.name} of {classifier}"
                ) from None
            record.add(classifier, part.name, part.settings, rows)
        measured.setdefault(part.name, {})[classifier] = rows
    return measured
