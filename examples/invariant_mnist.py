"""Trains a classifier on biased digits, with and without counterfactuals, and shows the difference.

    python examples/invariant_mnist.py

In the training digits the colour or texture gives the class away; in the test digits it is random.
The default is a short training of three minutes; `--paper` takes the published one, ten epochs of
50 000 digits. Of `--data`, counterfactuals are those of a CGN. real_shapes have the shapes of the
training images, found by a masker, and textures and backgrounds of the CGN. real_parts have
textures and backgrounds of the training images too. unbiased real images are the upper bound.

Writes to the folder OUT: sheet.png (real images and samples of the CGN), real_shapes.png or
real_parts.png (real images, their masks and counterfactuals), curves.png, results.jsonl, and a
checkpoint of each classifier. Press Ctrl-C at any time; --resume continues.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch.utils.data import DataLoader
from tqdm import tqdm

from cgn_augment import (
    BankSource,
    CGNError,
    CounterfactualDataset,
    Parts,
    RealShapeSource,
    Source,
    load_cgn,
    load_masker,
)
from cgn_augment.errors import ArgumentError
from cgn_augment.files import require_place
from cgn_augment.generators.sheet import draw_cgn
from cgn_augment.pictures.sheets import save_figure
from cgn_augment.sources.real_shapes_sheet import draw_real_shapes
from train_generator.classifier import (
    ClassifierConfig,
    ClassifierRun,
    EpochResult,
    MNISTClassifier,
    OneCycleConfig,
)
from train_generator.mnist import VARIANTS, VariantData, dtd_textures, load_textures, make_variant

BUNDLED = {
    "colored": "colored-mnist",
    "double_colored": "double-colored-mnist",
    "wildlife": "wildlife-mnist",
}
BUNDLED_DTD = "wildlife-dtd-mnist"  # trained on the paper's photographs, not the procedural ones
DATA = ("biased", "counterfactuals", "real_parts", "real_shapes", "unbiased")
SHORT = {"epochs": 4, "batch_size": 32, "refresh": 0, "num_train": 18_000, "num_test": 10_000}
PAPER = {"epochs": 10, "batch_size": 64, "refresh": 8, "num_train": 50_000, "num_test": 10_000}
ACCURACIES = ("train_accuracy", "test_accuracy")
Results = dict[str, list[list[EpochResult]]]  # for each kind of data and each seed, the epochs


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--variant", choices=VARIANTS, default="double_colored")
    add("--cgn", help="path of a CGN that was trained on the variant (default: the bundled one)")
    add("--masker", help="path of a masker for real_shapes (default: the bundled one)")
    add("--textures", help="wildlife only: folder with object/ and background/, ten images each")
    add("--dtd", help="wildlife only: folder to download the paper's textures to (DTD, 0.6 GB)")
    add("--data", nargs="+", choices=DATA, default=DATA[:3], help="(default: the first three)")
    add("--bank", type=int, default=2000, help="masks, foregrounds and backgrounds (default: 2000)")
    add("--fraction", type=float, default=1.0, help="counterfactual share of a batch (default: 1)")
    add("--paper", action="store_true", help="the published training: 10 epochs of 50 000 digits")
    add("--refresh", type=int, help="of the bank, replaced at each step (default: 0; paper: 8)")
    add("--epochs", type=int, help="default: 4; paper: 10")
    add("--batch-size", type=int, help="default: 32; paper: 64")
    add("--num-train", type=int, help="digits to train on (default: 18000; paper: 50000)")
    add("--num-test", type=int, help="digits to test on (default: 10000)")
    add("--seeds", type=int, nargs="+", default=[0], help="one classifier each (default: 0)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--out", type=Path, help="default: runs/invariant_mnist/VARIANT")
    add("--resume", action="store_true", help="go on with what is in OUT")
    arguments = parser.parse_args()
    for name, value in (PAPER if arguments.paper else SHORT).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    arguments.out = arguments.out or Path("runs/invariant_mnist") / arguments.variant
    return arguments


def main() -> None:
    arguments = parse_arguments()
    require_place(arguments.out)  # before anything slow
    textures = None
    if arguments.textures is not None:
        textures = load_textures(arguments.textures)
    elif arguments.dtd is not None:
        textures = dtd_textures(arguments.dtd, download=True)
    bundled = BUNDLED[arguments.variant] if textures is None else BUNDLED_DTD
    cgn = load_cgn(arguments.cgn or bundled, device=arguments.device)

    def digits(split: str, num: int | None, decorrelated: bool | None = None) -> VariantData:
        return make_variant(
            arguments.variant, split, textures=textures, num=num, decorrelated=decorrelated
        )

    train = digits("train", arguments.num_train)
    test = DataLoader(digits("test", arguments.num_test).dataset(), batch_size=500)
    unbiased = train
    if "unbiased" in arguments.data:  # the upper bound
        unbiased = digits("train", arguments.num_train, decorrelated=True)

    masker = None
    own = [kind for kind in arguments.data if kind in ("real_shapes", "real_parts")]
    if own:
        masker = load_masker(arguments.masker or bundled, device=arguments.device)

    parts = None
    if "real_parts" in own:
        images, labels = (part.to(arguments.device) for part in (train.images, train.labels))
        few = {} if arguments.paper else {"num_per_class": 50}  # which take a second, not ten
        num = len(images) if arguments.paper else 4000
        parts = Parts.from_images(images[:num], labels[:num], masker, **few)

    def make_source(kind: str, seed: int) -> Source:
        drawn = parts if kind == "real_parts" else cgn
        bank = BankSource(drawn, arguments.bank, arguments.refresh, seed=seed)
        return RealShapeSource(masker, bank, cache_masks=True) if kind in own else bank

    def make_run(kind: str, seed: int) -> ClassifierRun:
        torch.manual_seed(seed)
        mixed = kind not in ("biased", "unbiased")
        stream = CounterfactualDataset(
            (unbiased if kind == "unbiased" else train).dataset(),
            make_source(kind, seed),
            batch_size=arguments.batch_size,
            fraction=arguments.fraction if mixed else 0.0,
            mix="replace",
            seed=seed,
            prefetch=2,
        )
        config = ClassifierConfig if arguments.paper else OneCycleConfig
        return ClassifierRun(
            # A CPU convolves in this order faster.
            MNISTClassifier().to(cgn.device, memory_format=torch.channels_last),
            stream,
            config(num_epochs=arguments.epochs),
            arguments.out / f"{kind}-seed{seed}.pt",
        )

    # All of them first, so that a wrong argument is reported before anything is written.
    runs = {kind: [make_run(kind, seed) for seed in arguments.seeds] for kind in arguments.data}
    prepare_folder(arguments)

    first = [int((train.labels == y).nonzero()[0]) for y in train.labels.unique()]
    figure = draw_cgn(cgn, real=(train.images[first], train.labels[first]))
    print(f"picture: {save_figure(figure, arguments.out / 'sheet.png')}")
    for kind in own:
        figure = draw_real_shapes(make_source(kind, 0), train.images[first], train.labels[first])
        print(f"picture: {save_figure(figure, arguments.out / f'{kind}.png')}")

    results: Results = {kind: [] for kind in arguments.data}
    every = [run for same in runs.values() for run in same]
    with tqdm(total=sum(map(count_steps, every)), unit="step", disable=None) as bar:
        for kind in arguments.data:
            for seed, run in zip(arguments.seeds, runs[kind], strict=True):
                bar.set_description(f"{kind}, seed {seed}")
                bar.write(f"training on {kind}, seed {seed}", sys.stdout)
                if arguments.resume and run.checkpoint.is_file():
                    run.resume()
                    bar.update(len(run.results) * len(run.stream))
                run.model.register_forward_hook(
                    lambda model, *_: bar.update() if model.training else None
                )
                results[kind].append(run.train(test, progress=False))
    write_results(arguments, results)
    save_figure(draw_curves(results), arguments.out / "curves.png")
    print_table(arguments.variant, results)
    print(f"pictures, curves.png and results.jsonl: {arguments.out}")


def count_steps(run: ClassifierRun) -> int:
    return run.config.num_epochs * len(run.stream)


def prepare_folder(arguments: argparse.Namespace) -> None:
    """Refuses a folder that holds another run, and writes the settings of this one."""
    path = arguments.out / "settings.json"
    settings = {key: str(value) for key, value in vars(arguments).items() if key != "resume"}
    if path.is_file():
        if not arguments.resume:
            raise ArgumentError(
                f"{arguments.out} holds a run: pass --resume to go on, or another --out"
            )
        before = json.loads(path.read_text())["settings"]
        changed = [key for key in settings if settings[key] != before.get(key)]
        if changed:
            raise ArgumentError(
                f"{path} has other settings ({', '.join(changed)}): repeat the command as it was "
                "with --resume, or pass another --out"
            )
    arguments.out.mkdir(parents=True, exist_ok=True)
    versions = {name: version(name) for name in ("cgn-augment", "torch")}
    path.write_text(json.dumps({"settings": settings, "versions": versions}, indent=2) + "\n")


def write_results(arguments: argparse.Namespace, results: Results) -> None:
    rows = [
        {"variant": arguments.variant, "data": kind, "seed": seed, **asdict(epoch)}
        for kind, runs in results.items()
        for seed, epochs in zip(arguments.seeds, runs, strict=True)
        for epoch in epochs
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (arguments.out / "results.jsonl").write_text(lines)


def draw_curves(results: Results) -> Figure:
    """Draws test accuracy over epochs, a line for each kind of data and seed."""
    figure = Figure(figsize=(6, 3.6), dpi=150, layout="constrained")
    axes = figure.subplots()
    for color, (kind, runs) in enumerate(results.items()):
        for number, epochs in enumerate(runs):
            label = kind if number == 0 else None
            accuracies = [100 * epoch.test_accuracy for epoch in epochs]
            numbers = [epoch.epoch for epoch in epochs]
            axes.plot(numbers, accuracies, marker="o", ms=3, color=f"C{color}", label=label)
    axes.axhline(10, color="grey", linewidth=0.8, linestyle=":", label="chance")
    axes.set(xlabel="epoch", ylabel="test accuracy (%)", ylim=(0, 100))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(title="trained on", loc="center right")
    return figure


def print_table(variant: str, results: Results) -> None:
    row = "{:15} {:17} {:>15} {:>14}"
    print(row.format("variant", "data", "train accuracy", "test accuracy"))
    for kind, runs in results.items():
        train, test = ([getattr(epochs[-1], name) for epochs in runs] for name in ACCURACIES)
        print(row.format(variant, kind, summarize(train), summarize(test)))


def summarize(values: list[float]) -> str:
    """Returns the mean in percent, with the spread over seeds if there are several."""
    mean = f"{100 * statistics.mean(values):.1f} %"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


if __name__ == "__main__":
    try:
        main()
    except (CGNError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command with --resume goes on")
