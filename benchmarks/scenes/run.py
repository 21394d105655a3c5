"""The steps of the benchmark: each trains what is missing, measures it and records numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.scenes.evaluation import (
    CGNMetrics,
    Judges,
    change_scenes,
    load_judges,
    mean_overlap,
    measure_cgn,
    measure_judges,
    measure_prior,
    save_judges,
    train_judges,
)
from benchmarks.scenes.images import CLASSES, IMAGE_SIZE, NUM_CLASSES, make_scenes
from benchmarks.scenes.prior import (
    PRIOR_FILE,
    ReducedPriorConfig,
    ReducedPriorTraining,
)
from benchmarks.scenes.saliency import (
    SALIENCY_FILE,
    ReducedSaliencyConfig,
    ReducedSaliencyTraining,
)
from cgn_augment import BankSource, CounterfactualDataset, load_cgn
from cgn_augment.errors import CheckpointError
from cgn_augment.files import replacing
from cgn_augment.functional import Purpose, step_generator
from cgn_augment.generators import BigGAN, ImageNetCGN, load_biggan, load_u2net
from cgn_augment.pictures.sheets import draw_sheet, save_figure
from cgn_augment.types import FACTORS, Mechanisms
from train_generator.classifier import (
    EnsembleConfig,
    EnsembleRun,
    InvariantEnsemble,
    make_ensemble,
)
from train_generator.classifier.backbones import Preprocessing
from train_generator.imagenet.config import ImageNetConfig, LossesConfig, MetricsConfig
from train_generator.imagenet.sheet import draw_training
from train_generator.imagenet.training import ImageNetTraining
from train_generator.mnist.judges import JudgeConfig
from train_generator.robustness import (
    draw_shares,
    ensemble_predictor,
    measure_changes,
    measure_factors,
)
from train_generator.training.machine import CGN_FILE
from train_generator.training.trainer import CHECKPOINT

ROWS: dict[str, dict[str, Any]] = {
    "all losses": {},
    "no shape loss": {"entropy": 0.0, "size": 0.0},
    "no texture loss": {"texture": (0.0, 0.0, 0.0, 0.0)},
    "no background loss": {"background": 0.0},
}
"""By the name of a row of the ablation, the weights that are other than in the full training."""

FULL = "all losses"
"""The row whose CGN draws for the ensemble."""

ENSEMBLES = {"biased images alone": 0.0, "with counterfactuals": 1.0}
"""By name how many counterfactuals an ensemble is trained on for each real image."""

STEPS = ("sheet", "judges", "prior", "saliency", "cgn", "ensemble")


class Plan(NamedTuple):
    """Sizes of everything.

    ImageNet's CGN is trained with rates near 1e-5 on a million images; here there are some
    thousand, and the rates are higher.
    """

    judges: JudgeConfig = JudgeConfig(num_steps=700, batch_size=32)
    judge_images: int = 6000
    prior: ReducedPriorConfig = ReducedPriorConfig()
    statistics_images: int = 256
    saliency: ReducedSaliencyConfig = ReducedSaliencyConfig()
    cgn_steps: int = 700
    batch_size: int = 8
    shape_rate: float = 1e-4
    texture_rate: float = 3e-4
    background_rate: float = 2e-4
    losses: LossesConfig = LossesConfig(features="trained", num_feature_images=2000)
    ensemble: EnsembleConfig = EnsembleConfig(
        num_epochs=5, learning_rate=0.02, schedule="cosine", batch_norm="train"
    )
    backbone: str = "resnet18"
    ensemble_images: int = 3000
    ensemble_batch_size: int = 32
    bank: int = 800
    num_measured: int = 800


SMOKE = Plan(
    judges=JudgeConfig(num_steps=1, batch_size=4),
    judge_images=8,
    prior=ReducedPriorConfig(
        channel_width=4, num_statistics=2, num_images=8, coarse_steps=1, coarse_batch_size=4,
        num_steps=2, batch_size=4, discriminator_width=4, adversarial_from=1,
    ),
    statistics_images=8,
    saliency=ReducedSaliencyConfig(width=4, num_images=8, num_blobs=2, num_steps=1, batch_size=4),
    cgn_steps=1,
    batch_size=2,
    losses=LossesConfig(features="random"),
    ensemble=EnsembleConfig(num_epochs=1, batch_norm="train"),
    backbone="shufflenet_v2_x0_5",
    ensemble_images=8,
    ensemble_batch_size=4,
    bank=24,
    num_measured=16,
)  # fmt: skip
"""Shows in minutes that every step runs; its numbers mean nothing."""


def draw_scenes(num_rows: int = 3, seed: int = 0) -> Figure:
    """Draws scenes of both kinds, one column a class, and masks of the last biased row."""
    biased = make_scenes(num_rows * NUM_CLASSES, seed)
    test = make_scenes(num_rows * NUM_CLASSES, seed, decorrelated=True)
    drawn = {"train": biased.images, "test": test.images}
    rows = {
        f"{name} {i + 1}": part
        for name, images in drawn.items()
        for i, part in enumerate(torch.split(images, NUM_CLASSES))
    }
    rows["mask"] = biased.masks[-NUM_CLASSES:]
    return draw_sheet(rows, {"mask": list(CLASSES)})


def row_config(plan: Plan, out: Path, name: str) -> ImageNetConfig:
    """Returns the settings of a row's training."""
    return ImageNetConfig(
        biggan=str(out / "prior" / PRIOR_FILE),
        u2net=str(out / "saliency" / SALIENCY_FILE),
        num_steps=plan.cgn_steps,
        batch_size=plan.batch_size,
        accumulation=1,
        shape_rate=plan.shape_rate,
        texture_rate=plan.texture_rate,
        background_rate=plan.background_rate,
        epsilon=1e-8,
        norm_iterations=1,
        device="cpu",
        losses=replace(plan.losses, **ROWS[name]),
        metrics=MetricsConfig(every=0),
    )


def run_judges(plan: Plan, folder: Path) -> Judges:
    """Trains the judges, or reads those that there are."""
    if not (folder / "masker.safetensors").is_file():
        save_judges(train_judges(plan.judge_images, plan.judges, progress=True), folder)
    return load_judges(folder)


def run_prior(plan: Plan, folder: Path) -> BigGAN:
    """Trains the prior, goes on training it, or reads the one that there is."""
    if not (folder / PRIOR_FILE).is_file():
        training = ReducedPriorTraining(plan.prior, folder, resume=_started(folder))
        training.train(plan.statistics_images)
    return load_biggan(folder / PRIOR_FILE)


def run_saliency(plan: Plan, folder: Path) -> None:
    """Trains the saliency network, or goes on, unless there is one."""
    if not (folder / SALIENCY_FILE).is_file():
        ReducedSaliencyTraining(plan.saliency, folder, resume=_started(folder)).train()


def run_row(plan: Plan, out: Path, name: str) -> Path:
    """Trains the CGN of a row, or goes on, unless there is one; returns its file."""
    folder = _folder(out, name)
    if not (folder / CGN_FILE).is_file():
        config = row_config(plan, out, name)
        ImageNetTraining(
            config, folder, resume=_started(folder), save_every=100, sheet_every=200
        ).train()
    return folder / CGN_FILE


def run_ensemble(plan: Plan, out: Path, name: str) -> InvariantEnsemble:
    """Trains an ensemble on biased scenes from new weights, or goes on, unless there is one."""
    folder = _folder(out, name)
    scenes = make_scenes(plan.ensemble_images)
    model = make_ensemble(plan.backbone, NUM_CLASSES, pretrained=False)
    model.preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3, IMAGE_SIZE)
    model.to(memory_format=torch.channels_last)
    cgn = _load_cgn(_folder(out, FULL) / CGN_FILE)
    stream = CounterfactualDataset(
        TensorDataset(scenes.images, scenes.shape),
        BankSource(cgn, plan.bank, refresh=4),
        batch_size=plan.ensemble_batch_size,
        ratio=ENSEMBLES[name],
        mix="separate",
        label="all",
    )
    run = EnsembleRun(model, stream, plan.ensemble, folder, settings={"name": name})
    if _started(folder):
        run.resume()
    others = make_scenes(plan.num_measured, 1, decorrelated=True)
    run.train(DataLoader(TensorDataset(others.images, others.shape), 64))
    return model


def measure_ensemble(model: InvariantEnsemble, cgn: Mechanisms, plan: Plan) -> dict[str, Any]:
    """Returns accuracy on and sensitivity to each factor, in counterfactuals and real scenes."""
    preprocessing = asdict(model.preprocessing)
    predictor = ensemble_predictor(model, classes=None, **preprocessing)
    generator = step_generator(Purpose.MEASURE, 1)
    found = {
        "counterfactuals": measure_factors(predictor.see, cgn, plan.num_measured, generator),
        "real scenes": measure_changes(predictor.see, change_scenes(plan.num_measured)),
    }
    return {
        images: {kind: shares.rows for kind, shares in measured._asdict().items()}
        for images, measured in found.items()
    }


def format_ensembles(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns as Markdown accuracies on and sensitivities to each factor on real scenes."""
    columns = [f"{kind} {factor}" for kind in ("knows", "flips with") for factor in FACTORS]
    lines = [f"| trained on | output | {' | '.join(columns)} |", "| --- " * 8 + "|"]
    for name, each in measured.items():
        kinds = [each["real scenes"][kind] for kind in ("accuracy", "sensitivity")]
        for output in kinds[0]:
            shares = [kind[output][factor] for kind in kinds for factor in FACTORS]
            cells = [name, output, *(f"{100 * share:.1f} %" for share in shares)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_ensembles(measured: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draws how often each output of each ensemble flips on real scenes, by factor."""
    rows = {
        f"{name}: {output}": shares
        for name, each in measured.items()
        for output, shares in each["real scenes"]["sensitivity"].items()
    }
    return draw_shares(rows, "Real scenes: predictions that flip when one factor alone changes")


@torch.no_grad()
def measure_saliency(path: Path, num: int) -> dict[str, float]:
    """Returns the intersection over union of a saliency network on real scenes."""
    u2net = load_u2net(path)
    overlap = {}
    for name, decorrelated in (("biased", False), ("decorrelated", True)):
        scenes = make_scenes(num, 1, decorrelated=decorrelated)
        found = torch.cat([u2net(part) > 0.5 for part in torch.split(scenes.images, 64)])
        overlap[name] = mean_overlap(found, scenes)
    return overlap


def measure_row(path: Path, prior: BigGAN, judges: Judges, plan: Plan) -> CGNMetrics:
    """Measures the CGN of a row and draws it beside its file."""
    cgn = _load_cgn(path)
    classes = range(NUM_CLASSES)
    save_figure(draw_training(cgn, prior, classes), path.with_suffix(".png"))
    return measure_cgn(cgn, prior, judges, plan.num_measured, prior_seed=plan.prior.seed)


@torch.no_grad()
def draw_ablation(out: Path, names: Sequence[str]) -> Figure:
    """Draws mask, foreground and background of each row, one column a class, of the same noise."""
    rows = {}
    y = torch.arange(NUM_CLASSES)
    for name in names:
        cgn = _load_cgn(_folder(out, name) / CGN_FILE)
        noise = cgn.draw_noise(NUM_CLASSES, step_generator(Purpose.MEASURE, 2))
        rows[f"{name}: mask"] = cgn.shape(noise, y)
        rows[f"{name}: foreground"] = cgn.texture(noise, y)
        rows[f"{name}: background"] = cgn.background(noise, y)
    return draw_sheet(rows)


def format_table(rows: Mapping[str, CGNMetrics]) -> str:
    """Returns the ablation as a Markdown table; shares are in percent.

    Columns: see `CGNMetrics`.
    """
    header = "| row | mean mask | IoU with target's object | IoU with true mask | undecided | "
    header += "object in background | error | shape | texture | background |"
    lines = [header, "| --- " * 10 + "|"]
    for name, row in rows.items():
        found = row.counterfactual
        accuracies = (found.shape, found.texture, found.background)
        cells = [name, f"{row.mean_mask:.3f}", f"{row.overlap:.3f}", f"{row.overlap_of_noise:.3f}"]
        cells += [f"{100 * row.undecided:.1f} %", f"{100 * row.object_in_background:.1f} %"]
        cells += [f"{row.error:.3f}", *(f"{100 * share:.1f} %" for share in accuracies)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def run(plan: Plan, out: Path, steps: Sequence[str] = STEPS, rows: Sequence[str] = ()) -> None:
    """Takes the steps, and writes the numbers after each.

    Args:
        plan: sizes of everything.
        out: folder of everything.
        steps: of `STEPS`; those before must be done, but for the sheet.
        rows: of `ROWS`; all by default.
    """
    if "sheet" in steps:
        print(save_figure(draw_scenes(), out / "scenes.png"))
    if tuple(steps) == ("sheet",):
        return
    judges = run_judges(plan, out / "judges")
    if "judges" in steps:
        accuracy, overlap = measure_judges(judges, plan.num_measured)
        _note(out, judges={"accuracy": asdict(accuracy), "overlap": overlap})
    if "prior" in steps:
        prior = run_prior(plan, out / "prior")
        metrics = measure_prior(prior, judges, plan.num_measured, prior_seed=plan.prior.seed)
        _note(out, prior=asdict(metrics))
    if "saliency" in steps:
        run_saliency(plan, out / "saliency")
        _note(out, saliency=measure_saliency(out / "saliency" / SALIENCY_FILE, plan.num_measured))
    if "cgn" in steps:
        prior, measured = load_biggan(out / "prior" / PRIOR_FILE), {}
        for name in rows or ROWS:
            measured[name] = measure_row(run_row(plan, out, name), prior, judges, plan)
            _note(out, cgn={name: asdict(metrics) for name, metrics in measured.items()})
        print(format_table(measured))
        save_figure(draw_ablation(out, list(measured)), out / "ablation.png")
    if "ensemble" in steps:
        cgn, heads = _load_cgn(_folder(out, FULL) / CGN_FILE), {}
        for name in ENSEMBLES:
            heads[name] = measure_ensemble(run_ensemble(plan, out, name), cgn, plan)
            _note(out, ensemble=heads)
        save_figure(draw_ensembles(heads), out / "sensitivity.png")
        print(format_ensembles(heads))


def _folder(out: Path, name: str) -> Path:
    """Returns the folder of a row, or of an ensemble."""
    return out / name.replace(" ", "-")


def _load_cgn(path: Path) -> ImageNetCGN:
    cgn = load_cgn(path)
    if not isinstance(cgn, ImageNetCGN):
        raise CheckpointError(f"{path} is not an ImageNet CGN: delete it")
    return cgn


def _started(folder: Path) -> bool:
    return (folder / CHECKPOINT).is_file()


def _note(out: Path, **facts: Any) -> None:
    """Adds to the numbers that are known, and prints them."""
    path = out / "reduced_imagenet.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({**known, **facts}, indent=2) + "\n")
    print(json.dumps(facts, indent=2))
