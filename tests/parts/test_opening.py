"""Parts of a set, opened at a size for the user's labels."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from colored_parts_helpers import CLASSES, make_part, make_parts, make_set, write_set
from source_helpers import seeded
from torchvision.datasets import ImageFolder

from cgn_augment import MaskGate, Mechanisms, Parts
from cgn_augment.errors import ArgumentError, ArgumentTypeError, DataError, UsageError
from cgn_augment.parts import load_parts
from cgn_augment.parts.held import HeldParts
from cgn_augment.parts.opening import load_mechanisms, match_classes, open_parts


def test_what_is_drawn_are_the_parts_of_the_class() -> None:
    parts, y = make_parts(size=32), torch.arange(24) % 3
    assert isinstance(parts, Mechanisms)
    assert (parts.labels, parts.num_classes, parts.image_size) == ((0, 1, 2), 3, 32)
    assert parts.names == dict(enumerate(CLASSES))
    assert parts.counts == {"usable": 12}
    noise = parts.draw_noise(24, seeded())
    mask, foreground = parts.objects(noise, y)
    behind = parts.background(noise, y)
    assert torch.equal(mask, parts.shape(noise, y))
    for shown, low, images in ((mask, 0, 1), (foreground, -1, 3), (behind, -1, 3)):
        assert shown.dtype is torch.float32
        assert shown.shape == (24, images, 32, 32)
        assert low <= shown.min() <= shown.max() <= 1
    red, green = ((behind[:, channel, 0, 0] + 1) * 127.5 for channel in (0, 1))
    assert torch.equal(red.round().long() % 3, y)
    assert torch.equal(green.round().long(), 20 * y)
    for own, colours, label in zip(mask[:, 0], foreground, y.tolist(), strict=True):
        inside = colours[:, own > 0.5]
        assert len(inside[0].unique()) == 1  # of one object
        assert round(float((inside[1, 0] + 1) * 127.5)) == 20 * label + 100
    assert len(red.unique()) > 6


def test_bytes_are_the_same_parts() -> None:
    parts, y = make_parts(size=24), torch.arange(9) % 3
    raw = parts.as_bytes
    assert raw is not None
    noise = parts.draw_noise(9, seeded())
    for name, low in (("shape", 0.0), ("background", -1.0)):
        stored = getattr(raw, name)(noise, y)
        assert stored.dtype is torch.uint8
        exact = stored.float() * ((1 - low) / 255) + low
        torch.testing.assert_close(getattr(parts, name)(noise, y), exact)


def test_what_is_drawn_does_not_depend_on_threads() -> None:
    y = torch.arange(30) % 3
    drawn = []
    for num_threads in (0, 1, 3):
        parts = make_parts(num_threads=num_threads)
        noise = parts.draw_noise(30, seeded())
        drawn.append((*parts.objects(noise, y), parts.background(noise, y), parts.fingerprint))
    for other in drawn[1:]:
        assert other[3] == drawn[0][3]
        assert all(torch.equal(a, b) for a, b in zip(other[:3], drawn[0][:3], strict=True))


def test_labels_are_those_of_the_users_data_set() -> None:
    parts = make_parts(class_to_idx={"cow": 2, "ant": 9, "bee": 4})
    assert (parts.labels, parts.num_classes) == ((2, 4, 9), 10)
    behind = parts.background(parts.draw_noise(6, seeded()), torch.tensor([9, 4, 2] * 2))
    green = ((behind[:, 1, 0, 0] + 1) * 127.5).round().long().tolist()
    assert green == [0, 20, 40] * 2
    pooled = make_parts(class_to_idx={"cow": 1, "ant": 0, "bee": 0})  # two names of one label
    green = pooled.background(pooled.draw_noise(60, seeded()), torch.zeros(60).long())[:, 1, 0, 0]
    assert ((green + 1) * 127.5).round().unique().tolist() == [0, 20]
    assert parts.fingerprint != pooled.fingerprint != make_parts().fingerprint


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ant": 0, "bee": 1}, r"the parts have the classes \['cow'\] that class_to_idx lacks"),
        (
            {"ant": 0, "bee": 1, "cow": 2, "dog": 3},
            r"class_to_idx names \['dog'\] of which there are no parts: .* the same classes",
        ),
        ({"Ant": 0, "bee": 1, "cow": 2}, r"\['ant'\] that .* lacks, and class_to_idx .*\['Ant'\]"),
        ({"ant": -1, "bee": 1, "cow": 2}, r"class_to_idx\['ant'\] must be 0 or more"),
        ({"ant": 0.5, "bee": 1, "cow": 2}, r"class_to_idx\['ant'\] must be an integer"),
        (["ant", "bee", "cow"], "class_to_idx must be a mapping from names to labels, .* got list"),
    ],
)
def test_classes_that_do_not_match_are_an_error(given: Any, message: str) -> None:
    with pytest.raises((ArgumentError, ArgumentTypeError), match=message):
        match_classes(CLASSES, given)
    with pytest.raises((ArgumentError, ArgumentTypeError), match=message):
        make_parts(class_to_idx=given)


def test_a_class_without_parts_is_an_error_that_says_why() -> None:
    strict = MaskGate(min_area=0.99, max_area=1.0)
    some = [
        make_part(number, gate=strict if number % 3 == 1 else MaskGate()) for number in range(9)
    ]
    with pytest.raises(
        ArgumentError,
        match=r"class 'bee' has no object: 3 of its 3 images are left out \(3 empty\)\. Look at",
    ):
        open_parts(HeldParts(some), 32)
    full = [make_part(number, max_hole=0.01 if number % 3 == 2 else 1.0) for number in range(9)]
    with pytest.raises(
        ArgumentError,
        match=r"class 'cow' has no background: 0 of its 3 .* \(none\), and of the 3 others none",
    ):
        open_parts(HeldParts(full), 32)
    with pytest.raises(ArgumentError, match="no parts of any class"):
        open_parts(HeldParts([]), 32)
    with pytest.raises(ArgumentError, match="class 'dog' has no object: 0 of its 0"):
        open_parts(HeldParts(some, [*CLASSES[:1], "dog"]), 32)


def test_textures_need_sheets() -> None:
    parts, y = make_parts(), torch.tensor([1])
    with pytest.raises(ArgumentError, match=r"no foreground of class 1 .*\(texture='shape'\)"):
        parts.texture(parts.draw_noise(1, seeded()), y)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: make_parts(size=0), ArgumentError, "size must be 1 or more"),
        (lambda: make_parts(num_threads=-1), ArgumentError, "num_threads must be 0 or more"),
        (lambda: make_parts(device="here"), UsageError, "not the name of a device"),
        (lambda: load_parts("nowhere", 32), DataError, "holds no complete set of parts"),
        (lambda: load_mechanisms("colored-mnist", size=3), ArgumentError, "leave size out"),
        (lambda: load_mechanisms("tests", truncation=0.5), ArgumentError, "no truncation"),
        (lambda: load_mechanisms("tests"), DataError, "holds no complete set of parts"),
    ],
)
def test_what_cannot_be_opened_is_an_error(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_set_in_memory_is_read_like_one_on_disk() -> None:
    held = make_set(6)
    assert held.of_class("bee").tolist() == [1, 4]
    assert held.of_class("bee", "foreground").tolist() == []
    assert held.entry(4).key == "bee/4"
    assert held.fingerprint == make_set(6).fingerprint != make_set(7).fingerprint


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set"))


def test_a_set_on_disk_is_opened_for_the_labels_of_an_image_folder(on_disk: Path) -> None:
    images = ImageFolder(on_disk.parent / "photos")
    parts = load_parts(on_disk, 40, class_to_idx=images.class_to_idx)
    held, y = make_parts(40, num=9), torch.arange(9) % 3
    assert (parts.labels, parts.names, parts.counts["usable"]) == (held.labels, held.names, 9)
    noise = parts.draw_noise(9, seeded())
    for own in parts.shape(noise, y):
        assert 0.1 < own.mean() < 0.2
    green = ((parts.background(noise, y)[:, 1, -1, -1] + 1) * 127.5).round()
    assert (green - 20 * y).abs().max() <= 2  # of a JPEG
    with pytest.raises(ArgumentError, match=r"the classes \['ant'\] that class_to_idx lacks"):
        load_parts(on_disk, 40, class_to_idx={"bee": 0, "cow": 1})
    assert load_parts(on_disk, 40).fingerprint == parts.fingerprint
    assert load_parts(on_disk, 41).fingerprint != parts.fingerprint


def test_parts_go_through_pickles_and_forks(on_disk: Path) -> None:
    parts, y = load_parts(on_disk, 16), torch.arange(6) % 3
    noise = parts.draw_noise(6, seeded())
    expected = parts.background(noise, y)  # whose threads are there when it is forked
    assert torch.equal(pickle.loads(pickle.dumps(parts)).background(noise, y), expected)
    context = multiprocessing.get_context("fork")
    with context.Pool(1) as pool:
        assert torch.equal(pool.apply(parts.background, (noise, y)), expected)


def test_what_a_command_names_may_be_parts(on_disk: Path) -> None:
    parts = load_mechanisms(on_disk)
    assert isinstance(parts, Parts)
    assert parts.image_size == 40
    assert load_mechanisms(on_disk, size=24).image_size == 24
    assert load_mechanisms("colored-mnist").image_size == 32
