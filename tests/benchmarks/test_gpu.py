"""The benchmark of a GPU runs from end to end at tiny sizes, and survives parts that fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gpu
import pytest
import torch
from gpu_made import least_bytes
from gpu_setup import SMALL, Setup
from gpu_table import table
from gpu_timing import Way, measure_in_turns, spread

CPU = torch.device("cpu")


def errors_in(result: Any) -> list[str]:
    """All that says that something failed, however deep."""
    if isinstance(result, dict):
        own = [str(result["error"])] if "error" in result else []
        return own + [text for value in result.values() for text in errors_in(value)]
    if isinstance(result, list):
        return [text for value in result for text in errors_in(value)]
    return []


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gpu") / "gpu.json"
    before = torch.get_rng_state()
    gpu.run(CPU, path, list(gpu.WEIGHTS), budget=0.0, small=True)
    torch.set_rng_state(before)
    return path


def test_every_part_runs_on_a_cpu(measured: Path) -> None:
    results = json.loads(measured.read_text())
    assert list(results["parts"]) == list(gpu.WEIGHTS)
    assert errors_in(results) == []
    assert results["parts"]["tests"]["result"]["code"] == 0
    assert results["parts"]["tests"]["result"]["counts"]["test"] > 0
    rows = results["parts"]["training"]["result"]["rows"]
    assert all(row["ms"]["median"] > 0 for row in rows)
    assert all(row["ratio"]["median"] > 0 for row in rows if row["way"].startswith(("CGN", "par")))


def test_what_was_measured_becomes_tables(measured: Path) -> None:
    results = json.loads(measured.read_text())
    text = table(results)
    for row in results["parts"]["training"]["result"]["rows"]:
        assert f"| {row['way']} | " in text
    for name in results["parts"]:
        assert f"**{name}**" in text


def test_a_part_that_fails_leaves_its_error_and_the_next_one_runs(tmp_path: Path) -> None:
    results = gpu.Results(tmp_path / "gpu.json", {"machine": {"torch": "2", "python": "3"}})

    def fail(_: float) -> None:
        raise RuntimeError("CUDA out of memory")

    found = {"growth": {"host": 1.0}, "rows": [{"steps": 3}], "prefetch": 0}
    parts: dict[str, gpu.Part] = {"ceilings": fail, "memory": lambda _: found}
    gpu.run_parts(parts, Setup(CPU, SMALL), results, 1.0)
    written = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert written["ceilings"]["error"].startswith("RuntimeError: CUDA out of memory (test_gpu.py")
    assert written["memory"]["result"]["growth"] == {"host": 1.0}
    assert "failed: RuntimeError: CUDA out of memory" in table(results.get())
    assert list(tmp_path.iterdir()) == [tmp_path / "gpu.json"]


def test_a_way_that_fails_leaves_the_others() -> None:
    taken: list[str] = []

    def fail() -> None:
        raise ValueError("no")

    ways = {
        "plain": Way(lambda: taken.append("plain")),
        "bad": Way(fail, "plain"),
        "good": Way(lambda: taken.append("good"), "plain", share=0.5),
    }
    rows = measure_in_turns(ways, CPU, 0.0, num_steps=4, warm_up=1)
    assert [row["way"] for row in rows] == ["plain", "bad", "good"]
    assert rows[1]["error"].startswith("ValueError: no")
    assert rows[2]["base"] == "plain"
    assert rows[2]["ratio"]["median"] > 0
    # Rounds that are counted and one that warms up, of warm-up steps and those that are timed.
    assert taken.count("plain") == (rows[0]["rounds"] + 1) * 5
    assert taken.count("good") == (rows[0]["rounds"] + 1) * 3


def test_ratios_are_of_the_same_round() -> None:
    assert spread([4.0, 1.0, 2.0, 3.0])["median"] == 2.5
    assert spread([4.0]) == {"median": 4.0, "quartile_1": 4.0, "quartile_3": 4.0}


def test_the_fewest_bytes_are_those_of_factors_and_images() -> None:
    # One image of two by two pixels: 7 values of a byte each and 3 of four bytes each, a pixel.
    assert least_bytes(1, 2, 2, 1) == 4 * 7 + 4 * 12
    assert least_bytes(3, 4, 2, 4) == 3 * (16 * 28 + 4 * 12)


def test_rates_are_compared_to_the_best_of_the_published_way() -> None:
    def row(way: str, dtype: str, rate: float) -> dict[str, Any]:
        return {"way": way, "dtype": dtype, "images_per_second": rate, "tflops": rate / 10}

    rows = [
        row("published", "float32", 2.0),
        row("published", "float32", 4.0),
        row("published", "bfloat16", 9.0),
        row("eager", "bfloat16", 40.0),
        {"way": "graphs", "dtype": "bfloat16", "error": "no"},
    ]
    compared = gpu.compare(rows, {"float32": 1.0, "tf32": 2.0, "bfloat16": 8.0})
    assert [each.get("times_published") for each in compared] == [0.5, 1.0, 2.25, 10.0, None]
    assert compared[1]["share_of_product"] == 0.2
    assert compared[3]["share_of_product"] == 0.5
