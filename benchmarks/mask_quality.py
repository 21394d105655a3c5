"""How good masks must be: what classifiers gain from parts cut out by worse masks.

    python benchmarks/mask_quality.py --cache CACHE --unet runs/masker/masker.safetensors --jobs 2

Photographs, classifier and training are those of benchmarks/photographs.py: row "parts, in place",
trained at correlation 0.98, backgrounds filled by Telea's method. CACHE is that benchmark's, with
`photos-0.98-400`. Runs differ only in the masks, of one bit at 96 pixels:

- true; eroded or dilated by some pixels; moved by some pixels to one of four sides; a share of the
  images with the mask of another image;
- found by GrabCut, by a U-Net that learned from 80 masks (`train-generator masker`), as they are
  and with their edges refined, and by a bundled masker, which was made for digits.

`--prepare` only makes masks and parts. The runs can then be done elsewhere with the same CACHE, and
`--draw` turns their files into table and plot. Every run writes one JSON file; a run whose file
exists is not repeated, so the benchmark can be stopped at any time. Lines for plain training and
for the upper bound come from runs of benchmarks/photographs.py, `--references`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from job_pool import find_left, spread_out
from mask_quality_data import (
    CORRELATION,
    KINDS,
    OVERLAP,
    REFINED,
    SHARDS,
    TRUE,
    MaskedPhotos,
    take_apart,
    write_kind,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from photographs_runs import Job, describe, run_job
from seeds import summarise

from cgn_augment import CGNError
from cgn_augment.parts.set import PartSet
from cgn_augment.pictures.sheets import save_figure

RESULTS = Path(__file__).parent / "results"
REFERENCES = {"plain": "photographs alone", "upper": "upper bound"}
TESTS = ("decorrelated", "correlated")
LINES = {
    "eroded": "true ones, narrower (pixels)",
    "dilated": "true ones, wider (pixels)",
    "shifted": "true ones, shifted (pixels)",
    "another image's": "true ones, some of other images (%)",
}
"""What the plot calls families that are lines."""

MARKERS = dict(
    zip((name for name, kind in KINDS.items() if kind.family not in LINES), "*s^Dv", strict=True)
)
"""How the plot shows each of the others."""


class Run(NamedTuple):
    """A training with one kind of masks."""

    photos: MaskedPhotos
    job: Job
    out: Path


def _train(run: Run, device: str) -> None:
    run_job(run.job, lambda: None, run.photos, run.out / run.photos.kind, device)


def prepare(kinds: Sequence[MaskedPhotos], out: Path, num: int) -> None:
    """Makes the masks and the parts of each kind, and notes how good the masks are."""
    bases = [TRUE.name, *sorted({REFINED[each.kind] for each in kinds if each.kind in REFINED})]
    for name in bases:
        write_kind(kinds[0].of(name))
    spread_out(write_kind, [(photos,) for photos in kinds], num)
    shares = [(photos, rank) for photos in kinds for rank in range(SHARDS)]
    spread_out(take_apart, shares, num)
    for photos in kinds:
        parts = PartSet.open(photos.parts(CORRELATION))
        objects = sum(len(parts.of_class(name, "object")) for name in parts.classes)
        facts = json.loads((photos.masks / OVERLAP).read_text())
        told = {"kind": photos.kind, **facts, "objects": objects}
        place = out / photos.kind
        place.mkdir(parents=True, exist_ok=True)
        (place / "masks.json").write_text(json.dumps(told, indent=1) + "\n")


# Table and plot ---------------------------------------------------------------------------------


class Found(NamedTuple):
    """What came of one kind of masks.

    Attributes:
        masks: their overlap with the truth.
        accuracies: percentages by kind of test, one of each seed.
    """

    masks: dict[str, Any]
    accuracies: dict[str, list[float]]


def read_runs(out: Path) -> dict[str, Found]:
    """Returns by kind what its runs came to, of the kinds that have runs."""
    found = {}
    for name in KINDS:
        runs = [json.loads(path.read_text()) for path in sorted((out / name).glob("parts-*.json"))]
        if runs:
            masks = json.loads((out / name / "masks.json").read_text())
            found[name] = Found(masks, {t: [100 * run[t] for run in runs] for t in TESTS})
    return found


def read_references(folder: Path, steps: int) -> dict[str, list[float]]:
    """Returns the decorrelated accuracies of plain training and of the upper bound, by row."""
    found = {
        row: [
            100 * json.loads(path.read_text())["decorrelated"]
            for path in sorted(folder.glob(f"{row}-{CORRELATION}-{steps}-*.json"))
        ]
        for row in REFERENCES
    }
    return {row: values for row, values in found.items() if values}


def make_table(found: dict[str, Found]) -> str:
    """Returns a Markdown table; means ± standard deviations: over images, and over seeds."""
    heads = (
        "| masks | IoU | objects | decorrelated | correlated | seeds |\n|---|---|---|---|---|---|"
    )
    lines = [heads]
    for name, each in sorted(found.items(), key=lambda item: -item[1].masks["iou"]):
        accuracies = [str(summarise(each.accuracies[test])) for test in TESTS]
        overlap = f"{each.masks['iou']:.3f} ± {each.masks['std']:.3f}"
        seeds = len(each.accuracies[TESTS[0]])
        cells = [KINDS[name].label, overlap, each.masks["objects"], *accuracies, seeds]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _draw_points(axes: Axes, found: dict[str, Found], names: list[str], **look: Any) -> None:
    """Draws kinds of masks as a line of their means, and each seed as a dash."""
    chain = sorted(names, key=lambda name: found[name].masks["iou"])
    xs = [found[name].masks["iou"] for name in chain]
    values = [found[name].accuracies[TESTS[0]] for name in chain]
    axes.plot(xs, [statistics.fmean(each) for each in values], **{"marker": "o", "ms": 5, **look})
    for x, each in zip(xs, values, strict=True):
        axes.plot([x] * len(each), each, "_", color=look["color"], ms=6, alpha=0.6)


def draw_plot(found: dict[str, Found], references: dict[str, list[float]]) -> Figure:
    """Draws the decorrelated accuracy against the overlap, a line for each way to be worse."""
    figure = Figure(figsize=(8, 5.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for row, values in references.items():
        mean = statistics.fmean(values)
        axes.axhline(mean, color="0.6", ls="--", lw=1)
        along = axes.get_yaxis_transform()
        axes.text(0.01, mean + 0.3, REFERENCES[row], transform=along, color="0.4", fontsize=8)
    for number, (family, label) in enumerate(LINES.items()):
        names = [name for name in found if KINDS[name].family == family]
        if names:
            whole = [TRUE.name] if TRUE.name in found else []
            _draw_points(axes, found, [*whole, *names], label=label, color=f"C{number}")
        for name in names:
            axes.annotate(
                name.rpartition("-")[2],
                (found[name].masks["iou"], statistics.fmean(found[name].accuracies[TESTS[0]])),
                xytext=(4, 5),
                textcoords="offset points",
                fontsize=7,
                color=f"C{number}",
            )
    for name in [name for name in found if name in MARKERS]:
        _draw_points(
            axes,
            found,
            [name],
            label=KINDS[name].label,
            color="black",
            marker=MARKERS[name],
            linestyle="none",
            zorder=3,
        )
    lowest = min(each.masks["iou"] for each in found.values())
    axes.set(xlim=(max(0.0, lowest - 0.1), 1.1))
    axes.set_xlabel("mean intersection over union with the true masks")
    axes.set_ylabel("accuracy on decorrelated test photographs (%)")
    axes.legend(fontsize=8, loc="lower right")
    return figure


# The command ------------------------------------------------------------------------------------


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "cgn-photographs")
    parser.add_argument("--out", type=Path, default=RESULTS / "mask_quality")
    parser.add_argument("--references", type=Path, default=RESULTS / "photographs")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1200, help="default: 1200")
    parser.add_argument("--per-class", type=int, default=400, help="training photographs")
    parser.add_argument("--fill", default="telea", help="of the backgrounds; default: telea")
    parser.add_argument("--unet", help="file of the masker that learned from 80 masks")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--device", default="cpu", help="where networks run")
    parser.add_argument(
        "--prepare", action="store_true", help="make masks and parts, and train nothing"
    )
    parser.add_argument(
        "--draw", action="store_true", help="table and plot of what there is, and nothing else"
    )
    parser.add_argument("--smoke", action="store_true", help="one step on drawn images")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.per_class, arguments.seeds, arguments.steps = 2, [0], 1
        arguments.fill = "none"
    return arguments


def report(out: Path, references: Path, steps: int) -> None:
    """Writes table and plot of the runs that there are."""
    found = read_runs(out)
    table = make_table(found)
    (out / "table.md").write_text(table)
    figure = draw_plot(found, read_references(references, steps))
    save_figure(figure, out / "mask_quality.png")
    print(table, end="")


def main() -> None:
    arguments = parse()
    out: Path = arguments.out
    if arguments.draw:
        report(out, arguments.references, arguments.steps)
        return
    batch = 8 if arguments.smoke else 64
    kinds = [
        MaskedPhotos(
            arguments.cache,
            None,
            arguments.per_class,
            arguments.fill,
            batch,
            kind,
            arguments.unet,
            arguments.device,
        )
        for kind in arguments.kinds
    ]
    if not kinds[0].images.is_dir():
        if not arguments.smoke:
            sys.exit(f"error: {kinds[0].images} is missing: benchmarks/photographs.py makes it")
        kinds[0].prepare(CORRELATION, with_parts=False)
    prepare(kinds, out, arguments.jobs)
    if arguments.prepare:
        return
    runs = [
        Run(photos, job, out)
        for seed in arguments.seeds
        for photos in kinds
        for job in find_left(
            [Job("parts", CORRELATION, arguments.steps, seed)],
            out / photos.kind,
            partial(describe, photos=photos),
        )
    ]
    spread_out(_train, [(run, arguments.device) for run in runs], arguments.jobs)
    report(out, arguments.references, arguments.steps)


if __name__ == "__main__":
    try:
        main()
    except (CGNError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
