"""The page to look at cut-outs and to choose."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import Browser, find_chromium
from conftest import run_command
from part_helpers import make_photos, write
from PIL import Image

from cgn_augment.cli import program
from cgn_augment.errors import ArgumentError, FileError
from cgn_augment.parts.doubt import find_doubts
from cgn_augment.parts.part import Part
from cgn_augment.parts.photos import read_keys
from cgn_augment.parts.review import write_review
from cgn_augment.parts.set import PartSet

ODD = ("a ", "{b", "c\u2028d", "é ü", "script>")
"""Names of files that are not plain text, or not plain HTML."""

needs_browser = pytest.mark.skipif(find_chromium() is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs and their parts; an object is in pieces, one has no mask."""
    folder = make_photos(tmp_path_factory.mktemp("review"))
    for kind in ("photos", "masks"):
        (folder / kind / "<").mkdir()
        for number, name in enumerate(ODD):
            old = folder / kind / "dog" / f"{number % 4:03d}.png"
            (folder / kind / "<" / f"{name}.png").write_bytes(old.read_bytes())
    with Image.open(folder / "masks" / "cat" / "002.png") as old_mask:
        mask = Image.new("L", old_mask.size)
    mask.paste(255, (0, 0, 12, 12))
    mask.paste(255, (24, 24, 32, 32))
    mask.save(folder / "masks" / "cat" / "002.png")
    (folder / "masks" / "cat" / "001.png").unlink()
    write(folder, folder / "set", exclude=["cat/003"])
    return folder


@pytest.fixture(scope="module")
def page(place: Path) -> Path:
    return write_review(PartSet.open(place / "set"), place / "review.html", num_threads=0)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture
def browser(started: Browser) -> Iterator[Browser]:
    """A browser that remembers nothing of other tests."""
    started.resize(1280, 800)
    yield started
    started.evaluate("localStorage.clear()")
    for path in (started.folder / "downloads").glob("*"):
        path.unlink()


def facts_of(page: Path) -> dict[str, Any]:
    text = page.read_text(encoding="utf-8").split('id="facts">')[1].split("</script>")[0]
    facts: dict[str, Any] = json.loads(text)
    return facts


def pictures_of(page: Path) -> list[list[Image.Image | None]]:
    chunks = re.findall(r'class="pictures">(.*?)</script>', page.read_text(), re.DOTALL)
    lines = [line for chunk in chunks for line in chunk.removesuffix("\n").split("\n")]
    return [
        [
            Image.open(io.BytesIO(base64.b64decode(each))) if each else None
            for each in line.split(" ")
        ]
        for line in lines
    ]


def test_the_page_holds_every_image_by_class_the_worst_first(place: Path, page: Path) -> None:
    facts, pictures = facts_of(page), pictures_of(page)
    parts = PartSet.open(place / "set")
    assert [group["name"] for group in facts["classes"]] == list(parts.classes)
    shown = [entry for group in facts["classes"] for entry in group["entries"]]
    assert sorted(key for key, *_ in shown) == sorted(parts.index.keys)
    by_class = {group["name"]: group["entries"] for group in facts["classes"]}
    assert [entry[0] for entry in by_class["cat"]] == ["cat/001", "cat/003", "cat/002", "cat/000"]
    assert [entry[1] for entry in by_class["cat"]] == [2, 1, 0, 0]
    assert by_class["cat"][0][3] == "left out: no mask"
    assert "several pieces" in by_class["cat"][2][3]
    assert facts["exclude"] == ["cat/003"]
    assert [group["without"] for group in facts["classes"]] == [0, 1, 0]
    assert len(pictures) == len(shown)
    for (key, state, *_), (cut, background) in zip(shown, pictures, strict=True):
        part = parts.read(parts.index.keys.index(key))
        if state == 0:
            assert cut is not None
            assert background is not None
            assert cut.mode == "RGBA"
            assert background.size == part.size[::-1]
            assert part.object is not None
            assert cut.size == tuple(part.object.shape[:0:-1])
        else:
            assert (cut is None) == (state == 1)


def test_the_page_needs_no_network_and_no_name_breaks_it(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"https?:|(?:src|href)=|@import|url\(", text)
    assert "@@" not in text
    (group,) = (group for group in facts_of(page)["classes"] if group["name"] == "<")
    assert {entry[0] for entry in group["entries"]} == {f"</{name}" for name in ODD}


def test_the_bytes_do_not_depend_on_threads(place: Path, page: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    again = write_review(
        PartSet.open(place / "set"), tmp_path / "again.html", num_threads=3, advance=seen.append
    )
    assert again.read_bytes() == page.read_bytes()
    assert sum(seen) == len(PartSet.open(place / "set"))


def test_of_many_the_worst_are_shown(place: Path, tmp_path: Path) -> None:
    few = write_review(PartSet.open(place / "set"), tmp_path / "few.html", num=1, num_threads=0)
    groups = facts_of(few)["classes"]
    assert [len(group["entries"]) for group in groups] == [1, 1, 1]
    assert [group["num"] for group in groups] == [5, 4, 4]
    assert len(pictures_of(few)) == 3


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("review.txt", {}, "saved as .html"),
        ("nowhere/review.html", {}, "make it first"),
        ("review.html", {"num": 0}, "num"),
    ],
)
def test_what_cannot_be_written_is_refused(
    place: Path, tmp_path: Path, name: str, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ArgumentError, match=told):
        write_review(PartSet.open(place / "set"), tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_set_leaves_the_old_page(tmp_path: Path, photos: Path) -> None:
    write(photos, tmp_path / "set")
    parts = PartSet.open(tmp_path / "set")
    shard = tmp_path / "set" / "parts-000000.tar"
    shard.write_bytes(bytes(shard.stat().st_size))
    (tmp_path / "review.html").write_text("old")
    with pytest.raises(FileError, match="verify"):
        write_review(parts, tmp_path / "review.html")
    assert (tmp_path / "review.html").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"set", "review.html"}


def test_the_command_writes_the_page(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> int:
        with pytest.MonkeyPatch.context() as patch:
            return run_command(program.main, patch, "parts", "review", *arguments)

    assert run(place / "set", "--page", tmp_path / "my.html", "--num", 2) == 0
    assert "MB, open it in a browser" in capsys.readouterr().out
    assert len(pictures_of(tmp_path / "my.html")) == 6
    assert run(place / "set", "--page", tmp_path / "my.png") == 2
    assert "saved as .html" in capsys.readouterr().err
    assert run(tmp_path / "nothing") == 2


# What is doubtful ---------------------------------------------------------------------------------


def part_of(alpha: torch.Tensor, **given: Any) -> Part:
    """A part whose object has these opacities, in the middle of its image."""
    height, width = alpha.shape
    cut = torch.full((4, height, width), 128, dtype=torch.uint8)
    cut[3] = (alpha * 255).to(torch.uint8)
    facts: dict[str, Any] = {
        "size": (100, 100),
        "box": (10, 10, height, width),
        "area": 0.2,
        "background": torch.zeros(3, 100, 100, dtype=torch.uint8),
        **given,
    }
    return Part(key="k", label="c", verdict="usable", object=cut, **facts)


def block(**regions: tuple[slice, slice, float]) -> torch.Tensor:
    alpha = torch.ones(40, 40)
    for rows, columns, value in regions.values():
        alpha[rows, columns] = value
    return alpha


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (part_of(block()), []),
        (part_of(block(), area=0.02), ["small"]),
        (part_of(block(), area=0.9), ["large"]),
        (part_of(block(), background=None), ["no background"]),
        (part_of(block(), box=(0, 0, 40, 40)), ["at the border"]),
        (part_of(block(), box=(0, 10, 40, 40)), []),
        (part_of(block(), background=torch.full((3, 100, 100), 140)), ["like the background"]),
        (part_of(block(), background=torch.full((3, 100, 100), 160)), []),
        (part_of(block(gap=(slice(10, 20), slice(None), 0.0))), ["several pieces"]),
        (part_of(block(hole=(slice(10, 30), slice(10, 30), 0.0))), ["holes"]),
        (part_of(block(haze=(slice(10, 30), slice(10, 30), 0.6))), ["soft mask"]),
        (part_of(block(edge=(slice(0, 2), slice(None), 0.5))), []),
    ],
)
def test_each_doubt_has_its_cause(part: Part, expected: list[str]) -> None:
    assert list(find_doubts(part, usual_area=0.2)) == expected


def test_the_worst_doubt_is_named_first() -> None:
    doubts = find_doubts(part_of(block(), area=0.06, background=None), usual_area=0.2)
    assert list(doubts) == ["no background", "small"]
    assert list(doubts.values()) == sorted(doubts.values(), reverse=True)


# In a browser -------------------------------------------------------------------------------------

COUNT = "document.getElementById('count').textContent"


@needs_browser
def test_choices_are_made_kept_saved_and_the_set_rebuilt(
    place: Path, page: Path, tmp_path: Path, browser: Browser
) -> None:
    browser.open(page)
    assert browser.evaluate(COUNT) == "1 of 13 left out"  # the set excludes it already
    browser.click('[aria-label^="Leave out cat/002"]')
    browser.press("ArrowRight")
    browser.press(" ")  # cat/000
    browser.press("ArrowRight")
    browser.press(" ")
    browser.press(" ")  # and taken back
    browser.press("End")
    browser.press("ArrowLeft")
    browser.press("ArrowRight")
    browser.press("Home")
    for _ in range(4):  # back over cat/000, 002, 003 to the one without a cut-out
        browser.press("ArrowLeft")
    browser.press(" ")
    told = browser.evaluate("document.getElementById('said').textContent")
    assert told == "cat/001 has no cut-out: there is nothing to leave out."
    browser.press("Home")
    for key in ("ArrowLeft", " ", *["ArrowLeft", " "] * (len(ODD) - 1)):
        browser.press(key)
    assert browser.evaluate(COUNT) == "8 of 13 left out"
    browser.open(page)  # again
    assert browser.evaluate(COUNT) == "8 of 13 left out"
    browser.click("#save")
    keys = read_keys(browser.downloaded("exclude.txt"))
    assert sorted(keys) == sorted(["cat/000", "cat/002", "cat/003", *(f"</{name}" for name in ODD)])
    assert not errors(browser)

    write(place, tmp_path / "set", exclude=keys)
    parts = PartSet.open(tmp_path / "set")
    assert {
        parts.entry(n).key for n in range(len(parts)) if parts.entry(n).verdict == "excluded"
    } == set(keys)
    second = write_review(parts, tmp_path / "second.html")
    browser.open(second)
    assert browser.evaluate(COUNT) == "8 of 13 left out"
    browser.click('[aria-label^="Leave out cat/000"]')  # take it back
    browser.evaluate("document.getElementById('save').click()")
    browser.wait("document.getElementById('said').textContent.startsWith('Saved 7 keys')")
    assert not errors(browser)


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_its_width_and_shows_what_is_asked_for(
    page: Path, browser: Browser, width: int
) -> None:
    browser.resize(width, 800)
    browser.open(page)
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    unnamed = (
        "[...document.querySelectorAll('button, select')]"
        ".filter((each) => !each.ariaLabel && !each.textContent.trim()).length"
    )
    assert browser.evaluate(unnamed) == 0
    browser.evaluate(
        "document.querySelector('.why').textContent = 'area 28 % · soft mask, like the background'"
    )
    told = browser.evaluate(
        "(({scrollWidth: w, clientWidth, scrollHeight: h, clientHeight}) =>"
        " [w <= clientWidth, h <= clientHeight])(document.querySelector('.why'))"
    )
    assert told == [True, True]  # not cut off
    browser.wait("document.querySelector('.card img').naturalWidth > 0")
    stops = set()
    for _ in range(8):
        browser.press("Tab")
        stops.add(
            browser.evaluate(
                "(({id, className, tagName}) => id || className || tagName)(document.activeElement)"
            )
        )
    assert stops >= {"class", "show", "undo", "save", "card", "SUMMARY"}
    shown = "cards.filter((one) => !one.item.hidden).map((one) => one.key)"
    for value, expected in (("chosen", ["cat/003"]), ("before", ["cat/001"])):
        browser.evaluate(
            f"(() => {{ const show = document.getElementById('show'); show.value = '{value}';"
            "show.dispatchEvent(new Event('change')) })()"
        )
        assert browser.evaluate(shown) == expected
        headings = "[...document.querySelectorAll('h2')].filter((h) => h.offsetParent).length"
        assert browser.evaluate(headings) == 1  # of the class of that image
    assert not errors(browser)


@pytest.mark.slow
@needs_browser
def test_of_thousands_twenty_are_left_out(tmp_path: Path, browser: Browser) -> None:
    folder = make_photos(tmp_path / "many", 1600)
    write(folder, folder / "set", shard_size=1000, num_workers=2)
    page = write_review(PartSet.open(folder / "set"), tmp_path / "review.html")
    assert page.stat().st_size < 40e6
    browser.open(page)
    browser.evaluate("scrollTo(0, document.body.scrollHeight)")
    browser.wait("cards.at(-1).pictures[0].naturalWidth > 0")
    assert browser.evaluate("document.querySelectorAll('img[src]').length") < 400  # the rest is far
    keys = browser.evaluate("cards.slice(-20).map((one) => one.key)")
    browser.evaluate("cards.at(-1).button.focus()")
    browser.press(" ")
    for _ in range(19):
        browser.press("ArrowLeft")
        browser.press(" ")
    assert browser.evaluate(COUNT) == "20 of 3200 left out"
    browser.click("#save")
    saved = read_keys(browser.downloaded("exclude.txt"))
    assert sorted(saved) == sorted(keys)
    write(folder, folder / "again", shard_size=1000, num_workers=2, exclude=saved)
    assert PartSet.open(folder / "again").counts == {"usable": 3180, "excluded": 20}


def errors(browser: Browser) -> list[dict[str, Any]]:
    """What the browser complains about."""
    names = ("Runtime.exceptionThrown", "Log.entryAdded", "Network.requestWillBeSent")
    return [
        event
        for event in browser.events
        if event["method"] in names
        and not event["params"]
        .get("request", {})
        .get("url", "")
        .startswith(("file:", "data:", "blob:"))
    ]
