"""Turns measurements into Markdown tables and a picture, for screen and documents."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from performance_plots import PLOTS

from cgn_augment.cli.plan import imagenet_without_memory
from cgn_augment.pictures.sheets import save_figure
from cgn_augment.sources.cost import Rates, count_flops

Row = dict[str, Any]


def table(results: Row) -> str:
    """Returns one table for each part that was measured, and the error of each that was not."""
    machine = results["machine"]
    card = machine.get("card", "CPU")
    lines = [f"Measured on {card}, PyTorch {machine['torch']}, Python {machine['python']}.", ""]
    for name, part in results["parts"].items():
        lines.append(f"**{name}**" + (f" ({part['seconds']:g} s)" if "seconds" in part else ""))
        lines.append("")
        if "error" in part:
            lines.append(f"failed: {part['error']}")
        else:
            lines.extend(_TABLES[name](part["result"]))
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Returns the lines of a table; numbers to three digits, None as nothing.

    Examples:
        >>> markdown(["way", "ms"], [["plain", 1.23456]])
        ['| way | ms |', '| --- | --- |', '| plain | 1.23 |']
    """
    cells = [[_text(cell) for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in ([*head], ["---"] * len(head), *cells)]


def without_empty(head: list[str], rows: list[list[Any]]) -> tuple[list[str], list[list[Any]]]:
    """Leaves out the columns that no row has a value of.

    Examples:
        >>> without_empty(["way", "share", "ms"], [["plain", None, 1.0], ["ours", None, None]])
        (['way', 'ms'], [['plain', 1.0], ['ours', None]])
    """
    kept = [at for at in range(len(head)) if any(row[at] is not None for row in rows)]
    return [head[at] for at in kept], [[row[at] for at in kept] for row in rows]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):  # a median with quartiles
        low, middle, high = (_text(value[key]) for key in ("quartile_1", "median", "quartile_3"))
        return f"{middle} ({low} to {high})"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def _ceilings(result: Row) -> list[str]:
    rows = [["copy on the device, GB/s read and written", result["copy_gb_per_s"]]]
    if "from_host_gb_per_s" in result:
        rows.append(["copy from pinned memory, GB/s", result["from_host_gb_per_s"]])
    rows += [[f"matrix product {kind}, TFLOP/s", v] for kind, v in result["matmul_tflops"].items()]
    return markdown(["what", "rate"], rows)


def ways_as_table(result: Row) -> list[str]:
    """Returns the table of ways that took turns."""
    rows = [
        [row["way"], row.get("ms", row.get("error")), row.get("ratio"), row.get("peak_gib")]
        for row in result["rows"]
    ]
    return markdown(["way", "ms (quartiles)", "ratio (quartiles)", "peak GiB"], rows)


def _generator(result: Row) -> list[str]:
    keys = ("times_published", "tflops", "share_of_product", "difference")
    rows = [
        [
            row["way"],
            row["dtype"],
            row["batch"],
            row.get("images_per_second", row.get("error")),
            *(row.get(key) for key in keys),
            None if row.get("peak_bytes") is None else row["peak_bytes"] / 2**30,
        ]
        for row in result["rows"]
    ]
    head = ["way", "type", "batch", "images a second", "times the published way", "TFLOP/s"]
    return markdown(*without_empty([*head, "share", "largest difference", "peak GiB"], rows))


def _made(result: Row) -> list[str]:
    keys = ("ms", "device_ms", "host_ms", "floor_ms", "device_over_floor", "waits")
    rows = [
        [row["way"], row["error"], *[None] * 5]
        if "error" in row
        else [row["way"], *(row[key] for key in keys)]
        for row in result["rows"]
    ]
    head = ["way", "ms", "device ms", "host ms", "floor ms", "device / floor", "waits"]
    return markdown(head, rows)


def _memory(result: Row) -> list[str]:
    steps = result["rows"][-1]["steps"]
    rows = [[key.replace("_", " "), value] for key, value in result["growth"].items()]
    return markdown([f"growth over {steps} steps, prefetch {result['prefetch']}", "MiB"], rows)


def _filling(result: Row) -> list[str]:
    rows = [[r["way"], r.get("num"), r.get("per_second", r.get("error"))] for r in result["rows"]]
    return markdown(["bank of", "factors of each kind", "a second"], rows)


def _profile(result: Row) -> list[str]:
    lines = []
    for name, rows in result["tables"].items():
        shown = [rows] if isinstance(rows, str) else rows[:6]
        lines += [f"{name}:", *(f"    {row}" for row in shown)]
    return lines


def _tests(result: Row) -> list[str]:
    counts = ", ".join(f"{num} {name}" for name, num in result["counts"].items())
    return [f"exit code {result['code']}: {counts}", *result["failed"]]


_TABLES = {
    "ceilings": _ceilings,
    "training": ways_as_table,
    "generator": _generator,
    "made": _made,
    "passes": ways_as_table,
    "digits": ways_as_table,
    "memory": _memory,
    "filling": _filling,
    "compiled": _made,
    "profile": _profile,
    "tests": _tests,
}


DOCUMENTED = ("ceilings", "training", "generator", "made", "digits", "memory", "filling")
"""The parts that users want to know of."""


def for_documents(results: Row) -> str:
    """Returns the tables of docs/performance.md, each under what it says."""
    machine = results["machine"]
    settings = machine.get("settings", {})
    lines = [
        f"On an {machine.get('card', 'unknown device')} (driver "
        f"{settings.get('driver_version', 'unknown')}, PyTorch {machine['torch']}, Python "
        f"{machine['python']}): `{results['command']}`.",
    ]
    for name in DOCUMENTED:
        part = results["parts"].get(name, {})
        if "result" not in part:
            continue
        what = part["result"].get("what", "what the device can do at best")
        run = f" Of another run, `{part['of']}`." if "of" in part else ""
        lines += ["", f"{name.capitalize()}: {what}.{run}", "", *_TABLES[name](part["result"])]
    return "\n".join(lines)


def rates_of(results: Row) -> Rates:
    """Returns the rates that `cgn-augment plan` counts with, for `cgn_augment.sources.cost`.

    FLOPs are those that the CGN takes now, so that a plan says the seconds that were measured.
    """
    parts = {name: part["result"] for name, part in results["parts"].items() if "result" in part}
    made = {row["way"]: row.get("device_over_floor") for row in parts["made"]["rows"]}
    per_second = max(
        row.get("images_per_second", 0.0)
        for row in parts["generator"]["rows"]
        if row["dtype"] == "bfloat16" and row["way"] != "published"
    )
    return Rates(
        results["machine"]["card"],
        parts["ceilings"]["copy_gb_per_s"],
        made["parts, bank uint8"],
        made["CGN, bank uint8, resized"],
        per_second * sum(count_flops(imagenet_without_memory()).values()) / 1e12,
    )


def of_peers(results: Row) -> str:
    """Returns the table of what peers.py measured."""
    rows = [
        [row["way"], row["ms"], row.get("added_ms"), row.get("added_ms_per_image")]
        for row in results["rows"]
    ]
    return "\n".join(markdown(["way", "ms (quartiles)", "more", "more an image"], rows))


def put_into(text: str, name: str, tables: str) -> str:
    """Puts tables between the two marks of a document that have the name.

    Examples:
        >>> put_into("a <!-- x --> old <!-- /x --> b", "x", "new").split()
        ['a', '<!--', 'x', '-->', 'new', '<!--', '/x', '-->', 'b']
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, rest = text.split(begin)
    return f"{before}{begin}\n{tables}\n{end}{rest.split(end)[1]}"


WRITERS = {"gpu.json": for_documents, "peers.json": of_peers}
"""By the name of a file of results."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="what gpu.py or peers.py wrote")
    parser.add_argument("--into", type=Path, help="a document: its tables and picture are replaced")
    given = parser.parse_args()
    results = json.loads(given.results.read_text())
    if given.into is None:
        print(table(results), end="")
    else:
        name = given.results.name
        text = put_into(given.into.read_text(), name, WRITERS[name](results))
        if name == "gpu.json":
            print(f"for cgn_augment/sources/cost.py: {rates_of(results)}")
        given.into.write_text(text)
        picture = given.into.parent / "images" / f"{given.results.stem}.png"
        print(f"picture: {save_figure(PLOTS[name](results), picture)}")


if __name__ == "__main__":
    main()
