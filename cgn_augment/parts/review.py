"""An HTML page to review cut-outs and choose which to leave out.

The page is one file and needs neither network nor server. Pictures pass through a file on disk,
since the page orders them differently than the set: memory does not grow with the set.
"""

from __future__ import annotations

import base64
import html
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image
from torch import Tensor

from cgn_augment.checks import require_count
from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.files import replacing
from cgn_augment.parts.doubt import find_doubts
from cgn_augment.parts.index import Numbers
from cgn_augment.parts.making import EXCLUDED
from cgn_augment.parts.part import Part
from cgn_augment.parts.set import PartSet
from cgn_augment.parts.threads import Threads
from cgn_augment.ranks import count_cores

SIDE = 192
"""Longer side of a picture on the page, in pixels."""

QUALITY = 70
"""WebP quality of these pictures."""

CHUNK = 32
"""Entries whose pictures are stored together on the page."""

_BLOCK = 64  # entries in memory at a time
_USABLE, _EXCLUDED, _LEFT_OUT = range(3)  # the page's own numbers


@dataclass(frozen=True)
class _Entry:
    """An image on the page."""

    part: Part
    state: int
    doubts: dict[str, float]
    pictures: bytes

    @property
    def rank(self) -> float:
        """Sort key: higher ranks come first in their class."""
        return sum(self.doubts.values()) + 100 * self.state

    def facts(self) -> list[Any]:
        words = list(self.doubts) if self.state == _USABLE else [f"left out: {self.part.verdict}"]
        return [self.part.key, self.state, round(self.part.area, 3), ", ".join(words)]


def write_review(
    parts: PartSet,
    page: str | os.PathLike[str],
    *,
    num: int | None = None,
    num_threads: int | None = None,
    advance: Callable[[int], object] = lambda num: None,
) -> Path:
    """Writes a page to review a set of parts and choose what to leave out.

    It shows images by class, the most doubtful first (see `find_doubts`), and saves a list of keys
    for `exclude` of `write_parts`. The list includes keys that the set already excludes, unless
    they are taken back on the page.

    Args:
        parts: the set.
        page: where to write; a path that ends in .html.
        num: most images per class, the worst ones; None shows all.
        num_threads: threads that shrink pictures; all cores by default.
        advance: called with 1 for each image processed.

    Returns:
        The path of the page.

    Raises:
        ArgumentError: a path or a number cannot be used.
        DataError: the set is empty.
        FileError: a shard is missing or damaged.
        OSError: the page cannot be written; an older one stays as it was.

    Examples:
        >>> from cgn_augment.parts.review import write_review
        >>> from cgn_augment.parts.set import PartSet
        >>> folder = getfixture("parts_folder")           # the set of the example of `write_parts`
        >>> page = write_review(PartSet.open(folder), folder.parent / "review.html")
        >>> "cat/1" in page.read_text()
        True
    """
    path = check_page(page)
    most = len(parts) if num is None else require_count("num", num)
    threads = Threads(count_cores() if num_threads is None else num_threads)
    if len(parts) == 0:
        raise DataError(f"{parts.store.url} holds no images to look at")
    before, middle, after = _template()
    with replacing(path) as temporary, tempfile.TemporaryFile(dir=path.parent) as spool:
        facts, places = _collect(parts, most, threads, spool, advance)
        with temporary.open("wb") as out:
            title = html.escape(str(parts.store.url))
            out.write(before.replace("@@TITLE@@", title).encode("utf-8", "replace"))
            out.write(_json(facts))
            out.write(middle.encode())
            for chunk in range(0, len(places), CHUNK):
                out.write(b'<script type="text/plain" class="pictures">')
                for start, length in places[chunk : chunk + CHUNK].tolist():
                    spool.seek(start)
                    out.write(spool.read(length))
                out.write(b"</script><script>arrived()</script>\n")
            out.write(after.encode())
    return path


def check_page(page: str | os.PathLike[str]) -> Path:
    """Returns the path of a page, if one can be written there.

    Args:
        page: where to write the page.

    Raises:
        ArgumentError: it has another suffix, or the folder is missing.
    """
    path = Path(page)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ArgumentError(f"a page is saved as .html, got {path.name!r}")
    if not path.parent.is_dir():
        raise ArgumentError(f"the folder {path.parent} is missing: make it first")
    return path


def _collect(
    parts: PartSet,
    most: int,
    threads: Threads,
    spool: IO[bytes],
    advance: Callable[[int], object],
) -> tuple[dict[str, Any], Numbers]:
    """Collects all pictures in a file.

    Returns:
        The page's facts about the images, and (N, 2) the start and length of each image's pictures
        in the file, in the order of the page.
    """
    classes, places = [], []
    for name in parts.classes:
        numbers = parts.of_class(name)
        ranks, facts, of_class = [], [], []
        for entry in _entries(parts, numbers, threads, advance):
            ranks.append(entry.rank)
            facts.append(entry.facts())
            of_class.append((spool.tell(), len(entry.pictures)))
            spool.write(entry.pictures)
        order = np.argsort(-np.array(ranks), kind="stable")[:most]
        places += [of_class[number] for number in order]
        shown = [facts[number] for number in order]
        without = sum(state == _LEFT_OUT for _, state, *_ in facts)
        group = {"name": name, "num": len(numbers), "without": without, "entries": shown}
        classes.append(group)
    known = {
        "fingerprint": parts.fingerprint,
        "exclude": parts.manifest.settings["exclude"],
        "chunk": CHUNK,
        "classes": classes,
    }
    return known, np.array(places, np.int64).reshape(-1, 2)


def _entries(
    parts: PartSet, numbers: Numbers, threads: Threads, advance: Callable[[int], object]
) -> Iterator[_Entry]:
    """Yields the images of a class in their order, a bounded number at a time."""
    has_object = parts.index.places["object"][numbers, 1] > 0
    areas = parts.index.areas[numbers[has_object]]
    look = partial(_look, parts, float(np.median(areas)) if len(areas) else 0.0)
    for start in range(0, len(numbers), _BLOCK):
        for entry in threads.map(look, numbers[start : start + _BLOCK].tolist()):
            yield entry
            advance(1)


def _look(parts: PartSet, usual_area: float, number: int) -> _Entry:
    part = parts.read(number)
    if part.object is not None:
        doubts = find_doubts(part, usual_area)
        return _Entry(part, _USABLE, doubts, _line(part.object, part.background))
    state = _EXCLUDED if part.verdict == EXCLUDED else _LEFT_OUT
    pictures = _line(parts.picture(number, "image"), parts.picture(number, "mask"))
    return _Entry(part, state, {}, pictures)


def _line(*pictures: Tensor | None) -> bytes:
    """Returns two small pictures as a line of text; a missing one leaves nothing."""
    return b" ".join(b"" if each is None else _small(each) for each in pictures) + b"\n"


def _small(picture: Tensor) -> bytes:
    """Returns a picture (C, H, W) uint8 as a small WebP file in base64."""
    image = Image.fromarray(picture.permute(1, 2, 0).numpy().squeeze())
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=QUALITY, alpha_quality=QUALITY, method=2)
    return base64.b64encode(file.getvalue())


def _template() -> list[str]:
    text = files("cgn_augment.parts").joinpath("review.html").read_text(encoding="utf-8")
    before, rest = text.split("@@FACTS@@")
    return [before, *rest.split("@@PICTURES@@")]


def _json(facts: Any) -> bytes:
    """Returns facts as JSON that is safe inside a script of a page, whatever the names are."""
    return json.dumps(facts, separators=(",", ":")).replace("<", "\\u003c").encode()
