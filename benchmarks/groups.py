"""Worst-group accuracy of parts and of established methods, on photographs of animals.

    python benchmarks/groups.py --make-photos SOME/make-photos --jobs 2

Land and water animals at 96 pixels in the layout of Waterbirds, resized to 48. In training, the
correlation says how often each stands in its own place; in validation and test photographs it is
half of the time. Test animals and test places never occur in training. The classifier is a ResNet
with one basic block per stage and width 32, from new weights; AdamW with one cycle, batches of 64,
half of them counterfactual in the rows with parts; true masks. All rows see the same flips and keep
the last step's weights. Rows:

- plain: photographs alone. cutmix: CutMix on every batch.
- groupdro: GroupDRO, eta 0.01, each group drawn equally often; uses the groups in training.
- dfr: the plain row with its last layer retrained on balanced validation photographs, whose groups
  it uses.
- parts: objects on backgrounds of the other class, with these backgrounds' own objects removed, in
  place; placed: moved, turned, resized, mirrored.
- any, placed_any: the same, on backgrounds of either class.
- upper: photographs alone, of which each class stands half of the time in either place.

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

from groups_data import GroupPhotos
from groups_runs import ROWS, describe, run_job
from job_pool import find_left, run_jobs
from matplotlib.figure import Figure
from photographs_runs import Job
from seeds import Cell, summarise_each

from cgn_augment import CGNError
from cgn_augment.pictures.sheets import save_figure

RESULTS = Path(__file__).parent / "results" / "groups"
MEASURES = {
    "worst_group_accuracy": "worst group",
    "average": "average",
    "adjusted_average": "adjusted average",
}


def read_results(out: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(out.glob("*-*-*-*.json"))]


def gather(results: Sequence[dict[str, Any]]) -> dict[tuple[str, float, str], Cell]:
    """Returns by row, correlation and measure what the seeds came to.

    A row with a correlation of its own stands beside all others.
    """
    own = [row for row, each in ROWS.items() if each.correlation is not None]
    others = {each["correlation"] for each in results if each["row"] not in own}
    found: dict[tuple[str, float, str], list[float]] = {}
    for result in results:
        row = result["row"]
        for correlation in others if row in own else (result["correlation"],):
            for measure in MEASURES:
                values = found.setdefault((row, correlation, measure), [])
                values.append(100 * result["test"][measure])
    return summarise_each(found)


def make_table(results: Sequence[dict[str, Any]]) -> str:
    """Returns a Markdown table: percent on test photographs, mean ± deviation over the seeds."""
    cells = gather(results)
    columns = [(c, m) for c in sorted({key[1] for key in cells}) for m in MEASURES]
    heads = [f"{MEASURES[measure]}, {correlation}" for correlation, measure in columns]
    lines = [f"| | groups known of | {' | '.join(heads)} |", f"|---|---|{'---|' * len(heads)}"]
    for name, row in ROWS.items():
        shown = [cells.get((name, *column)) for column in columns]
        if any(shown):
            texts = ["" if cell is None else str(cell) for cell in shown]
            lines.append(f"| {row.name} | {row.labels} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def draw_plot(results: Sequence[dict[str, Any]]) -> Figure:
    """Draws the worst group of rows and seeds, and the average, a panel for each correlation."""
    cells = gather(results)
    columns = sorted({key[1] for key in cells})
    names = [name for name in ROWS if any(key[0] == name for key in cells)]
    size = (3.2 + 3.2 * len(columns), 1.4 + 0.34 * len(names))
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, correlation in zip(panels, columns, strict=True):
        for place, name in enumerate(names):
            worst = cells.get((name, correlation, "worst_group_accuracy"))
            average = cells.get((name, correlation, "average"))
            if worst is None or average is None:
                continue
            color = "C1" if ROWS[name].parts else "0.7"
            axes.barh(place, worst.mean, color=color, height=0.7)
            axes.plot(worst.values, [place] * len(worst.values), "k.", ms=4)
            axes.plot([average.mean], [place], "k|", ms=12)
            end = max(*worst.values, average.mean)
            text = f"{worst.mean:.1f} ({average.mean:.1f})"
            axes.text(end + 2, place, text, va="center", fontsize=7)
        axes.set(xlim=(0, 128), xticks=range(0, 101, 20))
        axes.set_title(f"trained at correlation {correlation}")
        axes.set_xlabel("worst group (%), dots: seeds; line, in brackets: average", fontsize=8)
    panels[0].set_yticks(range(len(names)), [ROWS[name].name for name in names], fontsize=8)
    panels[0].invert_yaxis()
    return figure


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--make-photos", type=Path, help="the tool that makes the photographs")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "cgn-groups")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--correlations", nargs="+", type=float, default=[0.95, 1.0])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--per-class", type=int, default=400, help="training photographs")
    parser.add_argument(
        "--test-per-class", type=int, default=220, help="test, and validation photographs"
    )
    parser.add_argument("--fill", default="copy", help="of the backgrounds; default: copy")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, of one thread each")
    parser.add_argument("--device", default="cpu", help="where classifiers are trained")
    parser.add_argument(
        "--prepare", action="store_true", help="make photographs and parts, and train nothing"
    )
    parser.add_argument("--smoke", action="store_true", help="a step on drawn images")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.per_class = arguments.test_per_class = 6
        arguments.seeds, arguments.steps = [0], 1
        arguments.correlations = arguments.correlations[-1:]
        arguments.fill, arguments.make_photos = "none", None
    return arguments


def main() -> None:
    arguments = parse()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    photos = GroupPhotos(
        arguments.cache,
        arguments.make_photos,
        arguments.per_class,
        arguments.test_per_class,
        arguments.fill,
        8 if arguments.smoke else 64,
    )
    jobs = [
        Job(row, correlation, arguments.steps, seed)
        for seed in arguments.seeds
        for row in arguments.rows
        for correlation in (
            arguments.correlations if ROWS[row].correlation is None else [ROWS[row].correlation]
        )
    ]
    left = find_left(jobs, out, partial(describe, photos=photos))
    for correlation in sorted({job.correlation for job in left}):
        mine = [ROWS[job.row] for job in left if job.correlation == correlation]
        photos.prepare(correlation, any(row.parts for row in mine), drawn=arguments.smoke)
    if arguments.prepare:
        return
    run = partial(run_job, photos=photos, out=out, device=arguments.device)
    run_jobs(jobs, left, run, arguments.jobs)
    results = read_results(out)
    table = make_table(results)
    (out / "table.md").write_text(table)
    save_figure(draw_plot(results), out / "groups.png")
    print(table, end="")


if __name__ == "__main__":
    try:
        main()
    except (CGNError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
