"""The documents say what benchmarks/results holds, and how to measure it again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO

PAGES = sorted(
    path.relative_to(REPO).as_posix() for path in [*REPO.glob("*.md"), *REPO.glob("docs/**/*.md")]
)
BENCHMARK = re.compile(r"python (benchmarks/\w+\.py)([^\n`|#]*)")


def page(name: str) -> str:
    return (REPO / name).read_text()


def results(name: str) -> Any:
    return json.loads((REPO / "benchmarks" / "results" / f"{name}.json").read_text())


@pytest.mark.parametrize("name", PAGES)
def test_files_and_sections_that_pages_name_are_there(name: str) -> None:
    folder = (REPO / name).parent
    for target, section in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", page(name)):
        if target.startswith("http"):
            continue
        found = folder / target if target else REPO / name
        assert found.exists(), target
        if section and found.suffix == ".md":
            heads = re.findall(r"^#+ (.*)$", found.read_text(), flags=re.MULTILINE)
            assert section in [slug(head) for head in heads], f"{target}#{section}"


def slug(head: str) -> str:
    """What a heading is called in a link."""
    return re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", PAGES)
def test_benchmarks_know_the_options_that_pages_give_them(name: str) -> None:
    for script, words in BENCHMARK.findall(page(name)):
        text = (REPO / script).read_text()
        for option in re.findall(r"--[a-z][a-z-]*", words):
            assert f'"{option}"' in text, f"{script} {option}"


@pytest.mark.parametrize("name", ["stream", "photographs_stream"])
def test_quartiles_of_the_streams_are_those_of_the_results(name: str) -> None:
    for what, ratio in results(name)["ratios"].items():
        spread = f"{ratio['quartile_1']:.2f} to {ratio['quartile_3']:.2f}"
        assert f"| {what} | {ratio['median']:.2f} | {spread} | " in page("docs/results.md")


def test_ratios_of_a_pass_are_those_of_the_results() -> None:
    ways = {row["way"]: row for row in results("passes")["rows"]}
    ratios = [
        ways[f"bank uint8, {form}"]["ratio"]["median"]
        for form in ("float32", "float32, channels last", "bfloat16, channels last")
    ]
    said = r"takes (0\.\d\d) of .*; (0\.\d\d) where .*; and (0\.\d\d) where they are bfloat16"
    (found,) = re.findall(said, page("docs/performance.md"))
    assert [f"{ratio:.2f}" for ratio in ratios] == list(found)


def test_the_readmes_ratios_are_those_of_the_stream() -> None:
    ratios = results("stream")["ratios"]
    bank = ratios["bank training, prefetch / plain training"]["median"]
    naive = ratios["naive training / plain training"]["median"]
    text = page("README.md")
    said = f"costs {naive:.1f} of a plain epoch; a filled bank with `prefetch=2` costs {bank:.2f}."
    assert said in text
    assert f"| {bank:.2f} (digits, CPU) |" in text


def test_the_readmes_first_command_gave_what_the_readme_says() -> None:
    epochs = results("first_command")["epochs"]
    last = max(each["epoch"] for each in epochs)
    words = (
        ("biased", "on biased digits"),
        ("counterfactuals", "on counterfactuals of a generator"),
        ("real_parts", "on recombined parts of the biased digits"),
    )
    for data, where in words:
        found = [e["test_accuracy"] for e in epochs if (e["data"], e["epoch"]) == (data, last)]
        assert len(found) == 3
        assert f"{where} {100 * sum(found) / 3:.1f} %" in page("README.md")


def test_the_readmes_photographs_are_those_of_the_table() -> None:
    lines = (REPO / "benchmarks/results/photographs/table.md").read_text().splitlines()
    found = {line.split("|")[1].strip(): line.split("|")[3].split()[0] for line in lines[2:10]}
    text = page("README.md")
    own, plain = found["parts, in place"], found["plain"]
    bound = found["upper bound: decorrelated photographs"]
    assert f"{own} % right instead of {plain} %; decorrelated photographs give {bound} %" in text
    pasted, cut = found["copy-paste onto whole images"], found["CutMix (torchvision)"]
    assert f"copy-paste onto whole photographs gives {pasted} %, CutMix {cut} %." in text
    training = results("photographs_stream")["ratios"]["mixed training, refresh 0"]["median"]
    assert f"| {training:.2f} of a plain one (ResNet-18, CPU)" in text


def test_the_readmes_figures_of_a_gpu_are_those_of_the_performance_page() -> None:
    text, rows = page("README.md"), page("docs/performance.md")
    for what, row in (("1.01", "parts, bank"), ("1.02", "CGN, bank")):
        assert f"{what} (ResNet-50, H200)" in text
        assert re.search(rf"\| {row}, prefetch 0 \| [^|]+ \| {what} ", rows)


def test_the_published_schedule_gave_what_the_page_says() -> None:
    last = [each for each in results("paper_command")["epochs"] if each["epoch"] == 10]
    said = {"biased": "-", "counterfactuals": "`double-colored-mnist`", "real_parts": "-"}
    assert [each["data"] for each in last] == list(said)
    biased, made, parts = (f"{100 * each['test_accuracy']:.1f}" for each in last)
    assert f"ten epochs: {biased}, {made} and {parts} % (one seed)" in page("README.md")
    for each in last:
        train, test = (f"{100 * each[f'{part}_accuracy']:.1f} %" for part in ("train", "test"))
        data, generator = each["data"].replace("_", " "), said[each["data"]]
        row = f"| double colored | {data} | {generator} | 0 | {train} | {test} |"
        assert row in page("docs/results.md")


def test_the_readmes_digits_are_those_of_the_results() -> None:
    rows = page("docs/results.md")
    assert "97.6 % right instead of 9.5 %; decorrelated digits give 97.3 %" in page("README.md")
    assert "| double colored | real parts | 97.6 % " in rows
    assert "| double colored | decorrelated, upper bound | 97.3 % " in rows
    assert "9.5 %" in rows


def test_processor_time_of_the_stream_of_photographs() -> None:
    ratio = results("photographs_stream")["ratios"]["mixed, 0 workers, refresh 16"]
    assert f"{ratio['median_of_cpu']:.2f} by processor time" in page("docs/results.md")


def test_real_shapes_and_imports() -> None:
    ratios = results("real_shapes")["ratios"].values()
    found, ahead, cached, cached_ahead = (
        "{median:.2f} {of}({quartile_1:.2f} to {quartile_3:.2f}".format(**ratio, of="")
        for ratio in ratios
    )
    text = page("docs/results.md").replace("of a plain one (quartiles ", "(")
    assert f"a step that finds its masks costs {found})," in text
    assert f"with cached masks {cached})." in text
    assert f"With `prefetch=2` these are {ahead}) and {cached_ahead})." in text
    assert f"take {results('import_time')['ratio']:.2f} of the time of `import torch`" in text


@pytest.mark.parametrize("fill", ["none", "telea", "copy"])
def test_taking_photographs_apart(fill: str) -> None:
    found = results("parts")[fill]
    tenth, every = found["tenth"], found["all"]
    assert every["images"] == 10 * tenth["images"] == 3200
    row = (
        f"| `{fill}` | {every['CPU ms an image']:.0f} ms "
        f"| {every['minutes on two quiet cores']:.2f} minutes "
        f"| {every['kB an image on disk']:.0f} kB "
        f"| {tenth['worker MiB']:.0f} and {every['worker MiB']:.0f} MiB |"
    )
    assert row in page("docs/results.md")


def test_reading_parts() -> None:
    found = results("parts")["read"]
    spread = "{median:.1f} ({quartile_1:.1f} to {quartile_3:.1f})".format(**found["ratio"])
    words = f"is read in {found['microseconds a part'] / 1000:.1f} ms of CPU, {spread} of what"
    assert words in page("docs/results.md")


def test_a_large_set_of_parts() -> None:
    made, stream = results("parts_large")["parts"], results("parts_large")["stream"]
    first, early, *_, last = stream["resident MiB"]
    assert stream["steps"] == 1000
    for words in (
        f"{made['images']:,}".replace(",", " ") + " photographs of 224 pixels",
        f"{made['CPU ms an image']:.0f} ms of CPU an image",
        f"which is {made['minutes on two quiet cores']:.0f} minutes on two cores",
        f"at most {max(made['writer MiB'], made['worker MiB']):.0f} MiB a process",
        f"{made['kB an image on disk']:.0f} kB an image on disk",
        f"took {first:.0f} MiB after its first step, {early:.0f} MiB after 100 and {last:.0f} MiB",
        f"a bank of {stream['bank']} parts",
    ):
        assert words in page("docs/results.md"), words


def test_shards() -> None:
    text = page("docs/shards.md")
    write, read = results("shards")["write"]["ratios"], results("shards")["read"]["ratios"]
    for what, ratio, digits in (
        ("and drop, speed", write["write speed / generate speed"], 2),
        ("the published way, speed", write["write speed / published speed"], 0),
        ("speed of reading", read["ShardSource speed / bare webdataset speed"], 2),
        ("a core to spare", write["encode in threads speed / in processes"], 2),
    ):
        low, middle, high = (
            f"{ratio[key]:.{digits}f}" for key in ("quartile_1", "median", "quartile_3")
        )
        assert f"{what} | {middle} | {low} to {high} | " in text
    memory = results("shards")["memory"]
    for num in ("20000", "200000"):
        assert f"{memory['peak_bytes'][num] / 1e6:.0f} MB both" in text
    assert f"| {memory['ratio']:.3f} (" in text


MASKERS = {
    "`grabcut`": "grabcut, 112 pixels",
    "a U-Net that learned from 80 masks": "U-Net of 80 masks",
    "the best bundled masker": "double-colored-mnist",
    "true ones, shifted by 4 pixels": "true, shifted",
    "true ones, wider by 4 pixels": "true, wider",
    "true ones, narrower by 4 pixels": "true, narrower",
    "true ones, blurred eightfold": "true, blurred",
}


def row_of(text: str, shown: str, after: str) -> list[float]:
    """The numbers in the row of a table, the first one after some words."""
    (row,) = re.findall(rf"^\| {re.escape(shown)} \|(.*)$", text.split(after)[1], re.MULTILINE)[:1]
    return [float(number) for number in re.findall(r"\d\.\d+", row)]


def rounded(values: list[float]) -> Any:
    """Two digits of three, of which the last may be a five."""
    return pytest.approx(values, abs=0.0051)


@pytest.mark.parametrize("shown", MASKERS)
def test_masks_refined(shown: str) -> None:
    found = results("masks")["results"][MASKERS[shown]]["refined"]
    refined = [found[name]["iou"] for name in ("largest, close", "guided", "grabcut")]
    row = row_of(page("docs/photographs.md"), shown, "| masks | as found |")
    assert row == rounded([found["none"]["iou"], found["none"]["std"], *refined])


@pytest.mark.parametrize(
    ("shown", "name"),
    [
        ("`grabcut`", "grabcut, 112 pixels"),
        ("a U-Net that learned from 80 masks", "U-Net of 80 masks"),
        ("`double-colored-mnist`, the best bundled one", "double-colored-mnist"),
    ],
)
def test_masks_by_class(shown: str, name: str) -> None:
    text = page("docs/photographs.md")
    (head,) = (line for line in text.splitlines() if line.startswith("| masks as found | all"))
    classes = head.strip("| ").split(" | ")[3:]
    found = results("masks")["results"][name]["all"]
    by_class = found["by class"]
    assert sorted(classes) == sorted(by_class)
    row = row_of(text, shown, head)
    assert row == rounded([found["iou"], found["std"], *(by_class[kind] for kind in classes)])


def test_masks_of_the_small_cgn() -> None:
    found = results("small_photographs")
    masker = found["results"]["masker, on samples"]
    disc = found["results"]["a disc of radius 9 in the middle of each image"]
    by_class = masker["by class"].values()
    text = page("docs/photographs.md")
    assert f"union of {masker['iou']:.2f} with the true ones" in text
    assert f"after {found['seconds of steps'] / 60:.0f} minutes" in text
    assert f"middle of each image has {disc['iou']:.2f}." in text
    assert f"go from {min(by_class):.2f} to {max(by_class):.2f}." in text


def test_the_page_to_look_at_cut_outs() -> None:
    found = results("review")
    text = page("docs/photographs.md")
    assert f"That page has {found['all']['MB of the page']:.0f} MB" in text
    assert f"written in {found['all']['CPU seconds']:.0f} s of CPU" in text
    assert f"pictures in {found['page']['first picture ms']['median'] / 1000:.1f} s" in text
    for kind, words in (
        ("both masks", "{} % of those with a piece of scene added"),
        ("mask of another image", "{} % of those that belonged to another image"),
        ("half of the object", "{} % of those that had lost half of the object"),
    ):
        assert (
            words.format(round(100 * found["worst first"][kind]["or in the first fifth"])) in text
        )
    assert found["worst first"]["opacity 0.6 to 0.9 in stripes"]["or in the first fifth"] == 1


def test_filling() -> None:
    found = results("fill")["methods"]
    text = page("docs/libraries.md")
    theirs, ours = (found[name]["texture"]["median"] for name in ("telea", "copy"))
    assert f"has {theirs:.2f} in it by either of its methods, ours {ours:.2f}" in text
    assert f"{found['navier-stokes']['texture']['median']:.2f}" == f"{theirs:.2f}"
    assert f"Telea's method in {1000 * found['telea']['seconds']['median']:.0f} ms" in text


def test_the_cgn_of_imagenet() -> None:
    found = results("imagenet")
    text = page("docs/imagenet.md")
    flops, seconds = found["flops"], found["processor_seconds"]
    low, high = found["processor_ratio"]["quartiles"]
    shares = {
        way: found["flops_per_second"][way] / found["flops_per_second_of_a_product"]
        for way in ("ours", "published")
    }
    memory, half = found["memory_mib"], found["half_precision"]
    for words in (
        f"| FLOP of an image | {flops['ours'] / 1e9:.0f} G | {flops['published'] / 1e9:.0f} G |",
        f"of processor time | {seconds['ours']:.1f} | {seconds['published']:.1f} |",
        f"| {found['processor_ratio']['median']:.2f} ({low:.2f} to {high:.2f}) | |",
        f"| {shares['ours']:.2f} | {shares['published']:.2f} |",
        f"used are {memory['weights']} MiB. Loading took {memory['loading']} MiB at most and "
        f"drawing {memory['drawing']} MiB;",
        f"deviation is {half['standard deviation of the image']:.2f} differs from float32's by "
        f"{half['image, bfloat16']['rms']:.4f} in bfloat16 and "
        f"{half['image, float16']['rms']:.4f} in float16",
        f"at most {half['image, bfloat16']['most']:.3f} and {half['image, float16']['most']:.3f})",
    ):
        assert words in text, words
    assert found["largest_difference"] <= 6e-7
    cost = page("docs/performance.md")
    assert f"| all fresh | {flops['ours'] / 1e9:.0f} GFLOP an image |" in cost
    assert f"as published | {flops['published'] / 1e9:.0f} GFLOP an image" in cost


def test_what_the_page_of_performance_says_beside_its_tables() -> None:
    parts = results("gpu")["parts"]
    text = page("docs/performance.md")
    ours = {row["flops_per_image"] for row in parts["generator"]["result"]["rows"][1:2]}
    assert f"took {ours.pop() / 1e9:.0f} GFLOP then" in text
    rows = {row["way"]: row for row in parts["training"]["result"]["rows"]}
    bank, fresh = (
        rows[f"CGN{way}, prefetch 0"]["ms"]["median"] for way in (", bank", " bfloat16, refresh 64")
    )
    assert f"added {(fresh - bank) / 64:.1f} ms to the step" in text


def test_every_table_of_results_is_named_by_a_page() -> None:
    text = "".join(page(name) for name in [*PAGES, "benchmarks/scenes/README.md"])
    folder = REPO / "benchmarks" / "results"
    for path in folder.glob("*.json"):
        script = Path("benchmarks", f"{path.stem}.py").as_posix()
        assert path.name in text or script in text, path.name
