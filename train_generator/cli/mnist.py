"""The commands that judge generators; `train_generator.cli.program` runs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal, get_args

from tqdm import tqdm

from cgn_augment import load_cgn
from cgn_augment.cli.screen import AT_WORK
from cgn_augment.errors import ArgumentError
from cgn_augment.files import replacing
from cgn_augment.masks import load_masker
from cgn_augment.masks.network import MaskerNetwork
from cgn_augment.pictures.sheets import check_picture, save_figure
from cgn_augment.types import Mechanisms
from train_generator.metrics.tables import Format, format_table
from train_generator.mnist.downstream import DownstreamRun, run_downstream
from train_generator.mnist.judges import (
    JudgeConfig,
    judge_accuracy,
    save_shape_judge,
    train_shape_judge,
)
from train_generator.mnist.measure import (
    load_judges,
    measure_digits,
    measure_generator,
    require_num,
)
from train_generator.mnist.pictures import draw_generators
from train_generator.mnist.records import DownstreamConfig
from train_generator.mnist.tables import downstream_table, metrics_table
from train_generator.mnist.textures import load_textures, procedural_textures
from train_generator.mnist.variants import VARIANTS, Variant

Row = Literal["published", "ours", "real_shapes", "real_parts", "decorrelated"]

ROW_ORDER: tuple[Row, ...] = get_args(Row)


def judge(out: str, seed: int = 0) -> None:
    """Trains the judge of shapes on clean digits; the package already has an equally good one.

    Args:
        out: file to write: .safetensors.
        seed: seed of the first weights and the order of the digits.
    """
    if Path(out).suffix != ".safetensors":
        raise ArgumentError(f"a judge is saved as .safetensors, got {out!r}")
    config = JudgeConfig(seed=seed)
    with replacing(Path(out)) as temporary:  # report a path that cannot be written before training
        shape_judge = train_shape_judge(config, progress=True)
        accuracy = judge_accuracy(shape_judge)
        save_shape_judge(shape_judge, temporary, config, accuracy)
    print(f"{out}: {100 * accuracy:.2f} % of the clean test digits")


def measure(
    variant: Variant,
    cgns: list[str] | str,
    textures: str | None = None,
    out: str | None = None,
    num: int = 5000,
    seed: int = 0,
    cache: str | None = None,
    table: Format = "plain",
) -> None:
    """Prints metrics of generators of a variant, beside the real data, and draws their samples.

    Args:
        variant: the variant that the generators were trained on.
        cgns: path of a checkpoint or name of a bundled generator, or several: '[ONE, TWO]'.
        textures: wildlife only: folder with object/ and background/, ten images each.
        out: picture to write: .png, .jpg, .webp, .pdf or .svg.
        num: masks, foregrounds and backgrounds to measure per generator.
        seed: seed of the draws.
        cache: folder of the judges of textures; ~/.cache/train_generator by default.
        table: as plain text or as Markdown.
    """
    paths = [cgns] if isinstance(cgns, str) else cgns
    if len(paths) == 0 or len(set(paths)) < len(paths):
        raise ArgumentError(f"name one generator or more, and each once; got {paths}")
    networks = dict(zip(_short_names(paths), map(load_cgn, paths), strict=True))
    require_num(num)  # before anything slow
    if out is not None:
        check_picture(out)
    stacks = None if textures is None else load_textures(textures)
    rows = {}
    with tqdm(total=len(networks) + 2, unit="step", desc="judges", delay=AT_WORK) as bar:
        judges = load_judges(variant, stacks, cache=None if cache is None else Path(cache))
        for name, cgn in networks.items():
            _next(bar, name)
            rows[name] = measure_generator(cgn, variant, stacks, num=num, seed=seed, judges=judges)
        _next(bar, "real data")
        rows["real data"] = measure_digits(variant, stacks, num=num, seed=seed, judges=judges)
        bar.update()
    print(format_table(metrics_table(rows), table))
    if out is not None:
        figure = draw_generators(networks, judges.shape, seed)
        print(f"picture: {save_figure(figure, out)}")


def downstream(
    out: str,
    variants: list[Variant] = list(VARIANTS),  # noqa: B006 - shown as the default
    rows: list[Row] = list(ROW_ORDER),  # noqa: B006
    seeds: list[int] = [0, 1, 2],  # noqa: B006
    published: str | None = None,
    ours: dict[str, str] | None = None,
    maskers: dict[str, str] | None = None,
    textures: str | None = None,
    training: DownstreamConfig = DownstreamConfig(),  # noqa: B008 - frozen
    device: str = "cpu",
    table: Format = "plain",
) -> None:
    """Trains the paper's classifier on each generator's counterfactuals, and prints the table.

    Each classifier is one file in OUT. Repeat the command after Ctrl-C, and it continues. Several
    processes with different seeds may share a folder; a last call with all seeds prints the table.

    Args:
        out: folder of the results.
        variants: variants of the data.
        rows: published or ours: counterfactuals of those generators; real_shapes: shapes of the
            training images, found by a masker, with textures of our generators; real_parts:
            textures and backgrounds also from the training images; decorrelated: decorrelated real
            images, the upper bound.
        seeds: one classifier each.
        published: folder of the authors' checkpoints, cgn_VARIANT_mnist.pth.
        ours: by variant, the path of a checkpoint or the name of a bundled generator.
        maskers: by variant, the path of a masker or the name of the generator it comes with; those
            of the bundled generators by default.
        textures: wildlife only: folder with object/ and background/, ten images each.
        training: settings common to all classifiers.
        device: where to train, such as cpu or cuda.
        table: as plain text or as Markdown.
    """
    for name, chosen in {"variants": variants, "rows": rows, "seeds": seeds}.items():
        if not chosen:
            raise ArgumentError(f"{name} is empty: name one or more, or leave it out for all")
    stacks = None
    if "wildlife" in variants:
        stacks = procedural_textures() if textures is None else load_textures(textures)
    paths = {**default_generators(textures is not None), **(ours or {})}
    masker_paths = {**default_generators(textures is not None), **(maskers or {})}
    for name, given in (("ours", paths), ("maskers", masker_paths)):
        unknown = sorted(given.keys() - set(VARIANTS))
        if unknown:
            raise ArgumentError(f"{name} has {unknown}: its keys must be of {', '.join(VARIANTS)}")

    def load(variant: Variant, row: Row) -> tuple[Mechanisms | None, MaskerNetwork | None]:
        finder = None
        if row in ("real_shapes", "real_parts"):
            finder = load_masker(masker_paths[variant], device=device)
        if row in ("real_parts", "decorrelated"):
            return None, finder
        if row != "published":
            return load_cgn(paths[variant], device=device), finder
        if published is None:
            raise ArgumentError(
                "the row published needs its checkpoints: name their folder with "
                "--published, or leave the row out with --rows '[ours, decorrelated]'"
            )
        return load_cgn(Path(published) / f"cgn_{variant}_mnist.pth", device=device), None

    def announce(run: DownstreamRun) -> None:
        print(f"training {run.path.stem}", file=sys.stderr)

    given_textures = {"wildlife": stacks}.get
    runs = [
        DownstreamRun(
            Path(out), variant, row, cgn, seed, training, given_textures(variant), device, finder
        )
        for variant in variants
        for row in rows
        for cgn, finder in [load(variant, row)]
        for seed in seeds
    ]
    try:
        results = run_downstream(runs, announce=announce)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on") from None
    print(format_table(downstream_table(results), table))
    print(f"results: {out}, one file for each classifier")


def default_generators(has_photographs: bool) -> dict[str, str]:
    """Returns the name of the bundled generator by variant; wildlife has one per texture set.

    Args:
        has_photographs: whether wildlife's textures are the paper's, not the procedural ones.
    """
    return {
        "colored": "colored-mnist",
        "double_colored": "double-colored-mnist",
        "wildlife": "wildlife-dtd-mnist" if has_photographs else "wildlife-mnist",
    }


def _next(bar: tqdm[Any], work: str) -> None:
    """Counts a step, and names the next."""
    bar.update()
    bar.set_description(work)


def _short_names(paths: list[str]) -> list[str]:
    """Returns the files' names without their folders, if that is unique."""
    short = [Path(path).name for path in paths]
    return short if len(set(short)) == len(short) else paths
