"""What classifiers of photographs gain from parts if scenes give the class away.

    python benchmarks/photographs.py --make-photos SOME/make-photos --jobs 2

Photographs of 8 classes at 96 pixels, resized to 48; a ResNet with one basic block per stage and
width 32, from new weights; AdamW with one cycle, batches of 64, half of them counterfactual in the
rows that have any; true masks. Test objects and test scenes never occur in training. In the
correlated test images each class stands in its own scene as often as in training, in the
decorrelated ones in any scene. All rows see the same flips. Rows:

- plain: real photographs alone.
- cutmix: CutMix of torchvision on every batch. randaugment: RandAugment of timm.
- copy-paste: objects pasted onto other whole photographs, whose own objects stay.
- parts: objects on backgrounds whose own object was removed, in place; placed: moved, turned,
  resized, mirrored; textures: with exchanged textures, in place.
  Backgrounds of these four come from other classes than the object's.
- upper: as many real photographs whose scenes say nothing about the class.

Every run writes one JSON file; a run whose file exists is not repeated, so the benchmark can be
stopped at any time. Photographs and parts are made once, in a folder outside the repository.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from job_pool import find_left, run_jobs
from matplotlib.figure import Figure
from photographs_data import Photos
from photographs_runs import DECORRELATED, ROWS, Job, describe, run_job
from seeds import Cell, summarise_each

from cgn_augment import CGNError
from cgn_augment.pictures.sheets import save_figure

RESULTS = Path(__file__).parent / "results" / "photographs"
LONG = ("placed", "upper")
"""Rows that are trained for the second number of steps too."""


# Table and plot ---------------------------------------------------------------------------------


def read_results(out: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(out.glob("*-*-*-*.json"))]


def gather(results: Sequence[dict[str, Any]]) -> dict[tuple[str, int, float, str], Cell]:
    """Returns by row, steps, correlation and kind of test what the seeds came to."""
    found: dict[tuple[str, int, float, str], list[float]] = {}
    for result in results:
        for test in ("decorrelated", "correlated"):
            key = result["row"], result["steps"], result["correlation"], test
            found.setdefault(key, []).append(100 * result[test])
    return summarise_each(found)


def make_table(results: Sequence[dict[str, Any]]) -> str:
    """Returns a Markdown table: accuracies in percent, mean ± standard deviation over the seeds."""
    cells = gather(results)
    columns = sorted({key[2] for key in cells})
    tests = [
        (correlation, test) for correlation in columns for test in ("decorrelated", "correlated")
    ]
    heads = [f"{test}, trained at {correlation}" for correlation, test in tests]
    lines = [f"| | steps | {' | '.join(heads)} |", f"|---|---|{'---|' * len(heads)}"]
    for steps in sorted({key[1] for key in cells}):
        for name, row in ROWS.items():
            shown = [cells.get((name, steps, *test)) for test in tests]
            if any(shown):
                texts = ["" if cell is None else str(cell) for cell in shown]
                lines.append(f"| {row.name} | {steps} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def draw_plot(results: Sequence[dict[str, Any]]) -> Figure:
    """Draws the decorrelated accuracies of rows and seeds, a panel for each correlation."""
    cells = gather(results)
    columns = sorted({key[2] for key in cells})
    bars = [
        (name, steps)
        for steps in sorted({key[1] for key in cells})
        for name in ROWS
        if any(key[:2] == (name, steps) for key in cells)
    ]
    height = 1.3 + 0.32 * len(bars)
    figure = Figure(figsize=(4.2 + 3.2 * len(columns), height), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    labels = [f"{ROWS[name].name}, {steps} steps" for name, steps in bars]
    for axes, correlation in zip(panels, columns, strict=True):
        for place, (name, steps) in enumerate(bars):
            cell = cells.get((name, steps, correlation, "decorrelated"))
            if cell is None:
                axes.text(1, place, "not run yet", va="center", fontsize=7, color="0.5")
                continue
            own = ROWS[name].parts == "parts"
            color = "C1" if own else "0.35" if ROWS[name].decorrelated else "0.7"
            axes.barh(place, cell.mean, color=color, height=0.7)
            axes.plot(cell.values, [place] * len(cell.values), "k.", ms=4)
            axes.text(max(cell.values) + 2, place, f"{cell.mean:.1f}", va="center", fontsize=8)
        axes.set(xlim=(0, 70), title=f"trained at correlation {correlation}")
        axes.set_xlabel("decorrelated test accuracy (%), dots: seeds")
    panels[0].set_yticks(range(len(bars)), labels, fontsize=8)
    panels[0].invert_yaxis()
    return figure


# The command ------------------------------------------------------------------------------------


def list_jobs(arguments: argparse.Namespace) -> list[Job]:
    """Returns the runs that are asked for, all rows of a seed before the next seed."""
    short, *long = arguments.steps
    return [
        Job(row, correlation, steps, seed)
        for seed in arguments.seeds
        for steps in (short, *long)
        for correlation in arguments.correlations
        for row in arguments.rows
        if steps == short or row in LONG
    ]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--make-photos", type=Path, help="the tool that makes the photographs")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "cgn-photographs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--correlations", nargs="+", type=float, default=[0.98, 1.0])
    parser.add_argument(
        "--steps",
        nargs="+",
        type=int,
        default=[1200, 3000],
        help=f"all rows for the first number, {' and '.join(LONG)} for further ones too; "
        "default: 1200 3000",
    )
    parser.add_argument("--per-class", type=int, default=400, help="training photographs")
    parser.add_argument("--fill", default="copy", help="of the backgrounds; default: copy")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, of one thread each")
    parser.add_argument("--device", default="cpu", help="where classifiers are trained")
    parser.add_argument(
        "--prepare", action="store_true", help="make photographs and parts, and train nothing"
    )
    parser.add_argument("--smoke", action="store_true", help="a few steps on drawn images")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.per_class, arguments.seeds, arguments.steps = 2, [0], [1, 2]
        arguments.correlations = arguments.correlations[:1]
        arguments.fill, arguments.make_photos = "none", None
    elif arguments.make_photos is None:
        parser.error("say where the tool is that makes the photographs: --make-photos")
    return arguments


def main() -> None:
    arguments = parse()
    jobs = list_jobs(arguments)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    batch = 8 if arguments.smoke else 64
    photos = Photos(
        arguments.cache, arguments.make_photos, arguments.per_class, arguments.fill, batch
    )
    left = find_left(jobs, out, partial(describe, photos=photos))
    for correlation in sorted({job.correlation for job in left}):
        mine = [ROWS[job.row] for job in left if job.correlation == correlation]
        photos.prepare(correlation, any(row.parts for row in mine))
    if any(ROWS[job.row].decorrelated for job in left):
        photos.prepare(DECORRELATED, with_parts=False)
    if arguments.prepare:
        return
    run = partial(run_job, photos=photos, out=out, device=arguments.device)
    run_jobs(jobs, left, run, arguments.jobs)
    results = read_results(out)
    table = make_table(results)
    (out / "table.md").write_text(table)
    save_figure(draw_plot(results), out / "photographs.png")
    print(table, end="")


if __name__ == "__main__":
    try:
        main()
    except (CGNError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
