"""Scenes: silhouettes, materials, and images with known factors."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from benchmarks.scenes import images as module
from benchmarks.scenes.images import (
    CLASSES,
    IMAGE_SIZE,
    MOST_COVER,
    NUM_CLASSES,
    SCENE_CODES,
    make_scenes,
    render_scenes,
)
from benchmarks.scenes.materials import BACKGROUNDS, NUM_CODES, TEXTURES, Variants, paint
from benchmarks.scenes.silhouettes import (
    SILHOUETTES,
    blob_silhouettes,
    class_silhouettes,
    signed_distance,
)
from cgn_augment.errors import ArgumentError
from cgn_augment.generators.truncation import draw_truncated
from train_generator.cli.program import data


@pytest.fixture(scope="module")
def biased() -> module.Scenes:
    return make_scenes(96, seed=1)


@pytest.fixture(scope="module")
def decorrelated() -> module.Scenes:
    return make_scenes(96, seed=1, decorrelated=True)


def test_distances_to_a_square_and_a_hole_in_it() -> None:
    square = torch.tensor([[-2.0, -2], [2, -2], [2, 2], [-2, 2]])
    places = torch.tensor([[0.0, 0], [1.5, 0], [3, 0], [5, 6], [-0.25, 0.25]])
    expected = [-2, -0.5, 1, 5, -1.75]
    assert signed_distance([square], places).tolist() == pytest.approx(expected)
    with_hole = signed_distance([square, square / 2], places)
    assert with_hole.tolist() == pytest.approx([1, -0.5, 1, 5, 0.75])
    reversed_too = signed_distance([square.flip(0), square / 2], places)
    assert torch.equal(with_hole, reversed_too)


def test_classes_have_textures_and_backgrounds_of_their_own() -> None:
    assert len(CLASSES) == len(TEXTURES) == len(BACKGROUNDS) == NUM_CLASSES == 8


@pytest.mark.parametrize("name", SILHOUETTES)
def test_silhouettes_fill_the_unit_circle_and_their_area_is_that_of_their_map(name: str) -> None:
    number = list(SILHOUETTES).index(name)
    found = class_silhouettes()
    assert found.outlines[number].norm(dim=1).max().item() == pytest.approx(1, abs=1e-5)
    cell = (2 * module.FRAME / (found.distances.shape[-1] - 1)) ** 2
    inside = (found.distances[number] < 0).sum().item() * cell
    assert inside == pytest.approx(found.areas[number].item(), rel=0.05)


def test_areas_of_a_hexagon_and_a_ring() -> None:
    areas = dict(zip(CLASSES, class_silhouettes().areas.tolist(), strict=True))
    assert areas["hexagon"] == pytest.approx(1.5 * math.sqrt(3))
    assert areas["ring"] == pytest.approx(math.pi * 0.75, rel=0.01)


def test_silhouettes_differ() -> None:
    inside = class_silhouettes().distances[:, 0] < 0
    for one in range(NUM_CLASSES):
        for other in range(one):
            union = (inside[one] | inside[other]).sum()
            assert (inside[one] & inside[other]).sum() / union < 0.8, (CLASSES[one], CLASSES[other])


def test_blobs_follow_from_the_seed_and_are_none_of_the_classes() -> None:
    blobs = blob_silhouettes(5, seed=3)
    blob_silhouettes.cache_clear()
    again = blob_silhouettes(5, seed=3)
    assert torch.equal(blobs.distances, again.distances)
    assert not torch.equal(blobs.distances, blob_silhouettes(5, seed=4).distances)
    inside, classes = blobs.distances[:, 0] < 0, class_silhouettes().distances[:, 0] < 0
    both = (inside[:, None] & classes).sum(dim=(2, 3)) / (inside[:, None] | classes).sum((2, 3))
    assert both.max() < 0.95
    with pytest.raises(ArgumentError, match="num must be 1 or more"):
        blob_silhouettes(0)


def test_images_and_masks_have_the_documented_ranges(biased: module.Scenes) -> None:
    assert biased.images.shape == (96, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert biased.masks.shape == (96, 1, IMAGE_SIZE, IMAGE_SIZE)
    assert biased.images.dtype == biased.masks.dtype == torch.float32
    assert biased.images.min() >= -1
    assert biased.images.max() <= 1
    assert biased.masks.min() == 0
    assert biased.masks.max() == 1
    soft = ((biased.masks > 0) & (biased.masks < 1)).float().mean().item()
    assert 0.01 < soft < 0.1  # edges are smooth, all else is one or the other


def test_objects_cover_a_share_of_the_image_and_are_never_cut(
    biased: module.Scenes, decorrelated: module.Scenes
) -> None:
    for scenes in (biased, decorrelated):
        cover = scenes.masks.mean(dim=(1, 2, 3))
        assert cover.min() > 0.1
        assert cover.max() < MOST_COVER + 0.02
        for border in (scenes.masks[:, :, [0, -1]], scenes.masks[..., [0, -1]]):
            assert border.max() == 0


def test_objects_are_in_many_places(biased: module.Scenes) -> None:
    axis = torch.arange(IMAGE_SIZE, dtype=torch.float32)
    weight = biased.masks.sum(dim=(1, 2, 3))
    center_x = (biased.masks.sum(dim=(1, 2)) * axis).sum(dim=1) / weight
    assert center_x.std() > 4
    assert abs(center_x.mean().item() - (IMAGE_SIZE - 1) / 2) < 4


def test_extreme_codes_cut_nothing() -> None:
    codes = torch.cat([torch.full((NUM_CLASSES, SCENE_CODES), value) for value in (-2.0, 2.0)])
    y = torch.arange(NUM_CLASSES).repeat(2)
    _, masks = render_scenes(codes, y, y, y, torch.Generator().manual_seed(0))
    assert masks[:, :, [0, -1]].max() == 0
    assert masks[..., [0, -1]].max() == 0


def test_classes_are_balanced_and_decide_all_factors_in_biased_images(
    biased: module.Scenes, decorrelated: module.Scenes
) -> None:
    assert biased.shape.bincount().tolist() == [12] * 8
    assert torch.equal(biased.texture, biased.shape)
    assert torch.equal(biased.background, biased.shape)
    assert decorrelated.shape.bincount().tolist() == [12] * 8
    for other in (decorrelated.texture, decorrelated.background):
        assert (other == decorrelated.shape).float().mean() < 0.3
        assert len(other.unique()) == 8
    assert (decorrelated.texture == decorrelated.background).float().mean() < 0.3


def test_scenes_follow_from_the_seed(biased: module.Scenes) -> None:
    again = make_scenes(96, seed=1)
    assert torch.equal(again.images, biased.images)
    assert torch.equal(again.masks, biased.masks)
    assert not torch.equal(make_scenes(8, seed=2).images, make_scenes(8, seed=1).images)


def test_the_mask_says_where_the_texture_is_and_where_the_background() -> None:
    codes = draw_truncated(8, SCENE_CODES, torch.Generator().manual_seed(0))
    y, other = torch.arange(8), (torch.arange(8) + 3) % 8

    def render(texture: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        return render_scenes(codes, y, texture, background, generator)[0]

    generator = torch.Generator().manual_seed(1)
    images, masks = render_scenes(codes, y, y, y, generator)
    # Other families draw other details, so noise apart the rest of the image is as it was.
    outside = (render(other, y) - images).abs().mean(dim=1, keepdim=True)
    inside = (render(y, other) - images).abs().mean(dim=1, keepdim=True)
    assert outside[masks == 1].mean() > 3 * outside[masks == 0].mean()
    assert inside[masks == 0].mean() > 3 * inside[masks == 1].mean()


@pytest.mark.parametrize("painters", [TEXTURES, BACKGROUNDS], ids=["textures", "backgrounds"])
def test_families_differ_in_colour_more_than_their_variants(painters: tuple[object, ...]) -> None:
    num = 12
    axis = torch.linspace(-1, 1, 32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    classes = torch.arange(len(painters)).repeat_interleave(num)
    codes = draw_truncated(len(classes), NUM_CODES, torch.Generator().manual_seed(0))
    places = (part.expand(len(classes), 1, -1, -1) for part in (x, y))
    images = paint(painters, classes, Variants(*places, codes, torch.Generator().manual_seed(1)))  # type: ignore[arg-type]
    assert torch.isfinite(images).all()
    flat = images.flatten(2)
    looks = torch.cat([flat.mean(dim=2), flat.std(dim=2)], dim=1).view(len(painters), num, 6)
    centers = looks[:, ::2].mean(dim=1)
    nearest = torch.cdist(looks[:, 1::2].flatten(0, 1), centers).argmin(dim=1)
    right = nearest == torch.arange(len(painters)).repeat_interleave(num // 2)
    assert right.float().mean() > 0.6  # 1 of 8 by chance; by mean and spread of colour alone


def test_bad_arguments_are_refused() -> None:
    y, generator = torch.arange(2), torch.Generator()
    with pytest.raises(ArgumentError, match="num must be 1 or more"):
        make_scenes(0)
    with pytest.raises(ArgumentError, match="seed must be 0 or more"):
        make_scenes(1, seed=-1)
    with pytest.raises(ArgumentError, match="draw_truncated makes them"):
        render_scenes(torch.full((2, SCENE_CODES), 3.0), y, y, y, generator)
    with pytest.raises(ArgumentError, match="draw_truncated makes them"):
        render_scenes(torch.zeros(2, 3), y, y, y, generator)
    with pytest.raises(ArgumentError, match="class"):
        render_scenes(torch.zeros(2, SCENE_CODES), y + 7, y, y, generator)
    x = torch.zeros(2, 1, 4, 4)
    with pytest.raises(ArgumentError, match="codes must have the shape"):
        paint(TEXTURES, y, Variants(x, x, torch.zeros(2, 1), generator))


def test_the_command_draws_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data("scenes", str(tmp_path / "scenes.png"))
    assert imread(tmp_path / "scenes.png").shape[2] == 4
    assert "scenes.png" in capsys.readouterr().out
    with pytest.raises(ArgumentError, match="wildlife"):
        data("scenes", str(tmp_path / "other.png"), textures=str(tmp_path))
