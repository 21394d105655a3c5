"""The judges: the shipped one, training, files and the cache."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from cgn_augment.errors import ArgumentError, CheckpointError, FileError
from train_generator.mnist import (
    AppearanceJudge,
    JudgeConfig,
    Textures,
    appearance,
    cache_folder,
    judge_accuracy,
    load_appearance_judge,
    load_digits,
    load_shape_judge,
    predict,
    procedural_textures,
    render_factor,
    save_shape_judge,
    train_appearance_judge,
    train_shape_judge,
)
from train_generator.mnist.judges import SHAPE_JUDGE_FILE, draw_digits
from train_generator.mnist.weights import write_weights

TINY = JudgeConfig(num_steps=2, batch_size=8)


def test_the_shipped_judge_is_good_small_and_says_what_made_it() -> None:
    assert SHAPE_JUDGE_FILE.stat().st_size < 400_000
    with safe_open(SHAPE_JUDGE_FILE, framework="pt") as file:
        metadata = file.metadata()
    assert float(metadata["test_accuracy"]) >= 0.985
    assert metadata.keys() >= {"num_steps", "seed", "torch", "cgn-augment"}
    judge = load_shape_judge()
    assert judge_accuracy(judge, 1000) >= 0.985
    assert not judge.training
    assert not any(value.requires_grad for value in judge.parameters())


def test_judging_in_parts_is_judging_at_once() -> None:
    digits = load_digits("test", 501)
    judge = load_shape_judge()
    masks = digits.masks.float()
    assert torch.equal(predict(judge, masks), judge(masks).argmax(1))


def test_training_learns_is_repeatable_and_leaves_global_randomness_alone() -> None:
    config = JudgeConfig(num_steps=30, batch_size=64, learning_rate=1e-2)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    judge = train_shape_judge(config, num_train=500)
    assert torch.equal(torch.rand(1), expected)
    assert judge_accuracy(judge, 200) > 0.5
    assert not judge.training
    assert not any(value.requires_grad for value in judge.parameters())
    for seed, same in ((0, True), (1, False)):
        first, second = (
            train_shape_judge(JudgeConfig(2, 8, seed=s), num_train=32).head.weight
            for s in (0, seed)
        )
        assert torch.equal(first, second) == same


def test_digits_are_drawn_moved_by_up_to_two_pixels_with_their_labels() -> None:
    digits = load_digits("train", 20)
    batches = iter(draw_digits(digits, JudgeConfig(batch_size=10)))
    masks, labels = (torch.cat(parts) for parts in zip(next(batches), next(batches), strict=True))
    assert sorted(labels.tolist()) == sorted(digits.labels.tolist())  # an epoch
    shifts = set()
    for mask, y in zip(masks.bool(), labels, strict=True):
        found = {
            (dy, dx)
            for dy in range(-4, 5)
            for dx in range(-4, 5)
            for digit in digits.masks[digits.labels == y]
            if torch.equal(digit.roll((dy, dx), (1, 2)), mask)
        }
        assert len(found) == 1
        shifts |= found
    assert max(max(map(abs, shift)) for shift in shifts) == 2
    assert len(shifts) > 8


def test_settings_are_checked_when_made() -> None:
    for settings, message in (
        ({"batch_size": 1}, "batch_size must be 2 or more, got 1"),
        ({"learning_rate": float("nan")}, r"learning_rate must be in \(0, 1\), got nan"),
    ):
        with pytest.raises(ArgumentError, match=message):
            JudgeConfig(**settings)


def test_a_judge_comes_back_from_its_file_and_a_bad_file_is_refused(tmp_path: Path) -> None:
    judge, path = train_shape_judge(TINY, num_train=16), tmp_path / "judge.safetensors"
    save_shape_judge(judge, path, TINY, 0.5)
    loaded = load_shape_judge(path)
    for name, value in judge.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    assert [file.name for file in tmp_path.iterdir()] == ["judge.safetensors"]

    with pytest.raises(FileError, match=r"there is no file .*other.safetensors"):
        load_shape_judge(tmp_path / "other.safetensors")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cut off or not a judge"):
        load_shape_judge(path)
    write_weights(AppearanceJudge(), path, {})
    with pytest.raises(CheckpointError, match="no weights of ShapeJudge"):
        load_shape_judge(path)
    save_file(judge.state_dict(), path)
    with pytest.raises(CheckpointError, match="has the format None and a judge has"):
        load_shape_judge(path)
    with pytest.raises(ArgumentError, match=r"saved as .safetensors, got 'judge.pt'"):
        save_shape_judge(judge, tmp_path / "judge.pt", TINY, 0.5)


def test_true_factors_fill_the_image_with_their_own_colour_or_texture() -> None:
    classes = torch.arange(10)

    def render(variant: str, factor: appearance.Factor) -> torch.Tensor:
        return render_factor(variant, factor, classes, torch.Generator().manual_seed(0))

    colors, behind = render("double_colored", "texture"), render("double_colored", "background")
    for images in (colors, behind):
        assert torch.equal(images, images[:, :, :1, :1].expand_as(images))
    # Class i wears the background colour of class i - 6, both jittered by 0.1 (0.2 in [-1, 1]).
    shifted = behind[:, :, 0, 0].roll(6, 0)
    assert (colors[:, :, 0, 0] - shifted).abs().mean() < 0.3
    assert (colors - behind).abs().mean() > 0.5
    assert render("colored", "texture").amax(dim=(1, 2, 3)).min() > -0.5
    textures = procedural_textures()
    for factor, stack in (("texture", textures.object), ("background", textures.background)):
        means = (render("wildlife", factor) + 1).mean(dim=(2, 3)) / 2
        assert (means - stack.mean(dim=(2, 3))).abs().max() < 0.2
        assert (means - stack.mean(dim=(2, 3))).abs().mean() < 0.05


def test_a_judge_of_colours_learns_them() -> None:
    judge = train_appearance_judge(
        "double_colored", "background", config=JudgeConfig(40, 50, learning_rate=1e-2)
    )
    classes = torch.arange(200) % 10
    generator = torch.Generator().manual_seed(1)
    images = render_factor("double_colored", "background", classes, generator)
    assert (predict(judge, images) == classes).float().mean() > 0.9


def test_a_factor_without_classes_has_no_judge() -> None:
    with pytest.raises(ArgumentError, match="the background of colored is the same"):
        train_appearance_judge("colored", "background")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes each training."""
    calls: list[str] = []
    train = appearance.train_appearance_judge

    def note(variant: str, *arguments: object) -> AppearanceJudge:
        calls.append(variant)
        return train(variant, *arguments)

    monkeypatch.setattr(appearance, "train_appearance_judge", note)
    return calls


def test_a_judge_is_trained_once_and_then_read(trained: list[str], tmp_path: Path) -> None:
    first, second = (
        load_appearance_judge("double_colored", "texture", cache=tmp_path / "new", config=TINY)
        for _ in range(2)
    )
    assert len(trained) == 1
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert not second.training


def test_what_changes_a_judge_makes_another_file(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    textures = procedural_textures(size=40)
    changed = textures.object.clone()
    changed[9, 2, -1, -1] += 0.01 if changed[9, 2, -1, -1] < 0.5 else -0.01
    other = Textures(changed, textures.background)
    for stacks, config, factor in [
        (textures, TINY, "texture"),
        (textures, TINY, "background"),
        (other, TINY, "texture"),
        (textures, JudgeConfig(num_steps=3, batch_size=8), "texture"),
    ]:
        load_appearance_judge("wildlife", factor, stacks, cache=tmp_path, config=config)
    assert len(trained) == len(list(tmp_path.iterdir())) == 4
    monkeypatch.setattr(appearance, "_VERSION", 2)
    load_appearance_judge("wildlife", "texture", textures, cache=tmp_path, config=TINY)
    assert len(trained) == 5


def test_a_damaged_cache_is_made_anew(
    trained: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def load() -> AppearanceJudge:
        return load_appearance_judge("colored", "texture", cache=tmp_path, config=TINY)

    load()
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:500])
    with caplog.at_level(logging.WARNING):
        load()
    assert "it is cut off" in caplog.text
    assert "a new one is trained" in caplog.text
    assert path.stat().st_size == len(whole)
    load()
    assert len(trained) == 2


def test_a_cache_that_cannot_be_written_stops_nobody(
    trained: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text(json.dumps("in the way"))
    with caplog.at_level(logging.WARNING):
        judge = load_appearance_judge("colored", "texture", cache=blocked, config=TINY)
    assert isinstance(judge, AppearanceJudge)
    assert "cannot be kept in" in caplog.text


def test_the_cache_is_where_the_xdg_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/train_generator")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "train_generator"
