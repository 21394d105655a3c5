"""The networks that the reduced ImageNet problem starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from benchmarks.scenes import prior as reduced_prior
from benchmarks.scenes import saliency as reduced_saliency
from benchmarks.scenes.batch_statistics import BatchStatisticsNorm, TrainableBigGAN
from benchmarks.scenes.images import NUM_CLASSES, SCENE_CODES
from benchmarks.scenes.prior import (
    PriorStage,
    ReducedPriorConfig,
    ReducedPriorTraining,
    codes_of_noise,
    draw_pairs,
    pair_loss,
    scenes_of_noise,
)
from benchmarks.scenes.saliency import (
    ReducedSaliencyConfig,
    ReducedSaliencyTraining,
    make_salient,
)
from cgn_augment.errors import ArgumentError, CheckpointError
from cgn_augment.functional import Purpose, step_generator
from cgn_augment.generators import BigGANConfig, load_biggan, load_u2net
from cgn_augment.generators.truncation import draw_truncated, find_rows
from train_generator.losses.discriminators import PatchDiscriminator

LAYERS = ((False, 16, 8), (True, 8, 4), (False, 4, 2), (True, 2, 1))
SMALL = BigGANConfig(3, 8, 4, LAYERS, attention_at=2, num_statistics=5)
TINY: dict[str, Any] = {"channel_width": 4, "num_images": 16, "batch_size": 4}
TINY |= {
    "coarse_steps": 1,
    "coarse_batch_size": 4,
    "discriminator_width": 4,
    "learning_rate": 2e-3,
    "num_statistics": 3,
}


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sheets of a training are empty: each takes seconds to draw."""
    for module in (reduced_prior, reduced_saliency):
        monkeypatch.setattr(module, "draw_sheet", lambda *_: Figure())


@pytest.fixture
def trainable() -> TrainableBigGAN:
    torch.manual_seed(0)
    biggan = TrainableBigGAN(SMALL)
    torch.nn.init.normal_(biggan.embeddings.weight)
    return biggan


def test_batch_statistics_make_each_channel_normal(trainable: TrainableBigGAN) -> None:
    norm = trainable.generator.bn  # not conditional; gain 1 and shift 0 at first
    assert isinstance(norm, BatchStatisticsNorm)
    with pytest.raises(CheckpointError, match="draw one first"):
        norm.write(0)
    x = 3 + 2 * torch.randn(8, 4, 5, 5)
    for training in (True, False):
        made = norm.train(training)(x, find_rows(1.0))
        assert made.mean(dim=(0, 2, 3)).abs().max() < 1e-5
        assert (made.var(dim=(0, 2, 3), correction=0) - 1).abs().max() < 1e-3
    norm.write(2)
    assert torch.allclose(norm.running_means[2], x.mean(dim=(0, 2, 3)), atol=1e-5)
    assert torch.allclose(norm.running_vars[2], x.var(dim=(0, 2, 3), correction=0), atol=1e-4)
    assert norm.running_means[1].abs().max() == 0


def test_training_and_eval_mode_draw_the_same(trainable: TrainableBigGAN) -> None:
    noise, y = torch.randn(6, 8), torch.arange(6) % 3
    trainable.settle_norms(100)
    with torch.no_grad():
        trained, drawn = trainable.train()(noise, y), trainable.eval()(noise, y)
    assert torch.allclose(trained, drawn, atol=1e-3)


@pytest.mark.parametrize("truncation", [0.5, 1.0])
def test_standing_statistics_are_those_of_a_batch_of_that_truncation(
    trainable: TrainableBigGAN, truncation: float
) -> None:
    standing = trainable.with_standing_statistics(num_images=12, seed=3)
    row = round(truncation * 4)
    noise = draw_truncated(12, 8, step_generator(Purpose.WEIGHTS, 3, row)) * truncation
    y = torch.arange(12) % 3
    with torch.no_grad():
        wanted, drawn = trainable.eval()(noise, y), standing(noise, y, truncation)
        alone = standing(noise[:1], y[:1], truncation)
    assert torch.allclose(wanted, drawn, atol=1e-5)
    assert torch.allclose(alone, drawn[:1], atol=1e-5)  # no statistics of the batch any more
    assert drawn.std() > 0.01


def test_norms_follow_the_weights_in_training_mode_alone(trainable: TrainableBigGAN) -> None:
    part = trainable.generator.gen_z
    noise, y = torch.randn(4, 8), torch.arange(4) % 3
    for training, moves in ((False, False), (True, True)):
        trainable.train(training)
        part.weight_orig.data.normal_(generator=torch.Generator().manual_seed(1))  # type: ignore[union-attr,operator]
        before = part.weight_u.clone()  # type: ignore[union-attr,operator]
        trainable(noise, y)
        assert torch.equal(before, part.weight_u) != moves  # type: ignore[arg-type]


def test_codes_are_a_rotation_of_the_noise() -> None:
    noise = torch.randn(500, SCENE_CODES, generator=torch.Generator().manual_seed(0)) / 4
    codes = codes_of_noise(noise)
    assert torch.allclose(codes.norm(dim=1), noise.norm(dim=1), atol=1e-5)
    assert not torch.allclose(codes, noise, atol=0.1)
    assert torch.equal(codes, codes_of_noise(noise))
    assert not torch.allclose(codes, codes_of_noise(noise, seed=1), atol=0.1)
    assert codes_of_noise(10 * noise).abs().max() == 2


def test_pairs_are_the_scenes_of_their_noise() -> None:
    pairs = draw_pairs(16, 32)
    assert pairs.y.bincount().tolist() == [2] * NUM_CLASSES
    scenes = scenes_of_noise(pairs.noise, pairs.y, torch.Generator().manual_seed(5))
    images = pairs.images.float() / 127.5 - 1
    same = (images - scenes.images).abs().mean()
    other = (images.roll(8, dims=0) - scenes.images).abs().mean()
    assert same < 0.6 * other  # the details are others, places and colours the same


def test_pair_loss_at_several_resolutions() -> None:
    chequered = torch.ones(1, 3, 4, 4)
    chequered[..., ::2, ::2] = chequered[..., 1::2, 1::2] = -1
    assert pair_loss(chequered, torch.zeros_like(chequered), (2.0, 5.0)).item() == 2


def test_a_larger_discriminator_sees_larger_images() -> None:
    discriminator = PatchDiscriminator(width=4, image_size=64)
    patches, whole = discriminator(torch.zeros(2, 3, 64, 64), torch.arange(2))
    assert (patches.shape, whole.shape) == ((2, 256), (2, 1))
    with pytest.raises(ArgumentError, match="3, 64, 64"):
        discriminator(torch.zeros(2, 3, 32, 32), torch.arange(2))
    for wrong in (16, 48):
        with pytest.raises(ArgumentError, match="image_size must be"):
            PatchDiscriminator(image_size=wrong)


def test_coarse_features_are_those_that_the_upper_blocks_get(trainable: TrainableBigGAN) -> None:
    noise, y, seen = torch.randn(6, 8), torch.arange(6) % 3, []
    block = trainable.generator.layers[3]  # type: ignore[index,union-attr]
    block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        trainable.eval()(noise, y)
        features = trainable.coarse_features(noise, y, 2)
        whole = trainable.coarse_features(noise, y, 4)
    # The attention before the third block is without effect at first.
    assert torch.allclose(features, seen[0], atol=1e-5)
    assert features.shape == (6, 16, 8, 8)
    assert whole.shape == (6, 4, 16, 16)
    for wrong in (0, 5):
        with pytest.raises(ArgumentError, match="num_blocks must be 1 to 4"):
            trainable.coarse_features(noise, y, wrong)


def test_the_lower_blocks_learn_the_scenes_alone(tmp_path: Path) -> None:
    config = ReducedPriorConfig(**{**TINY, "coarse_steps": 30}, num_steps=1)
    training = ReducedPriorTraining(config, tmp_path, progress=False)
    upper = training.biggan.generator.layers[-1].conv_0.weight_orig.clone()  # type: ignore[union-attr,operator,index]
    stage = training._coarse_stage()
    losses = [stage.step(step, torch.Generator()) for step in range(20)]
    assert losses[-1]["squared error"] < 0.9 * losses[0]["squared error"]
    now = training.biggan.generator.layers[-1].conv_0.weight_orig  # type: ignore[union-attr,index]
    assert torch.equal(upper, now)  # type: ignore[arg-type]


def test_the_prior_learns_its_pairs(tmp_path: Path) -> None:
    config = ReducedPriorConfig(**TINY, num_steps=200, adversarial_from=190)
    training = ReducedPriorTraining(config, tmp_path, progress=False)
    stage = training._stage()
    assert isinstance(stage, PriorStage)
    losses = [stage.step(step, torch.Generator().manual_seed(step)) for step in (*range(12), 195)]
    assert set(losses[0]) == {"pairs"}
    assert set(losses[-1]) == {"pairs", "adversarial", "discriminator"}
    assert losses[11]["pairs"] < 0.9 * losses[0]["pairs"]


@pytest.mark.usefixtures("without_pictures")
def test_the_prior_is_written_as_published_ones_are(tmp_path: Path) -> None:
    config = ReducedPriorConfig(**TINY, num_steps=2, adversarial_from=1)
    training = ReducedPriorTraining(config, tmp_path, progress=False)
    path = training.train(num_images=8)
    biggan = load_biggan(path)
    assert biggan.config == config.biggan
    assert biggan.config.image_size == 64
    images = biggan(torch.zeros(2, 32), torch.tensor([0, 7]), 0.5)
    assert images.shape == (2, 3, 64, 64)
    with pytest.raises(ArgumentError, match="--resume"):
        ReducedPriorTraining(config, tmp_path)
    other = ReducedPriorConfig(**TINY, num_steps=3, adversarial_from=1)
    with pytest.raises(CheckpointError, match="num_steps"):
        ReducedPriorTraining(other, tmp_path, resume=True)
    resumed = ReducedPriorTraining(config, tmp_path, resume=True, progress=False)
    assert resumed.trainer.finished
    assert torch.equal(
        load_biggan(resumed.train(num_images=8))(torch.zeros(2, 32), torch.tensor([0, 7]), 0.5),
        images,
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"noise_dim": 8}, "noise_dim must be"),
        ({"num_steps": 0}, "num_steps must be"),
        ({"coarse_rate": 0.0}, "coarse_rate must be above 0"),
        ({"average": 1.0}, "average must be"),
        ({"pair_weights": ()}, "pair_weights must be"),
        ({"channel_width": 6}, "multiple of 4"),
    ],
)
def test_bad_settings_of_the_prior(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ReducedPriorConfig(**wrong)


def test_salient_images_have_blobs_of_any_texture_or_nothing() -> None:
    scenes = make_salient(80, num_blobs=4, empty_share=0.3, seed=1)
    empty = scenes.masks.sum(dim=(1, 2, 3)) == 0
    assert torch.equal(empty, scenes.shape == 4)
    assert 0.1 < empty.float().mean() < 0.5
    assert (scenes.texture == scenes.background).float().mean() < 0.35
    assert scenes.masks[~empty].mean(dim=(1, 2, 3)).min() > 0.08


@pytest.mark.usefixtures("without_pictures")
def test_the_saliency_network_learns_and_is_written_as_the_published_one_is(tmp_path: Path) -> None:
    config = ReducedSaliencyConfig(
        width=4, num_images=16, num_blobs=4, num_steps=6, batch_size=4, learning_rate=1e-3
    )
    training = ReducedSaliencyTraining(config, tmp_path, progress=False)
    stage = training._stage()
    first = stage.step(0, torch.Generator())
    for step in range(1, 6):
        last = stage.step(step, torch.Generator().manual_seed(step))
    assert last["cross entropy"] < first["cross entropy"]
    path = training.train()
    u2net = load_u2net(path)
    found = u2net(torch.zeros(1, 3, 64, 64))
    assert (found.shape, u2net.width) == ((1, 1, 64, 64), 4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"empty_share": 1.0}, "empty_share must be"),
        ({"noise": -1.0}, "noise must be"),
        ({"learning_rate": float("nan")}, "learning_rate must be"),
        ({"batch_size": 1}, "batch_size must be"),
    ],
)
def test_bad_settings_of_the_saliency_network(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ReducedSaliencyConfig(**wrong)


@pytest.mark.parametrize("kind", ["prior", "saliency"])
def test_a_sheet_shows_scenes_and_what_is_made_of_them(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: dict[str, torch.Tensor] = {}
    for module in (reduced_prior, reduced_saliency):
        monkeypatch.setattr(module, "draw_sheet", rows.update)
    if kind == "prior":
        ReducedPriorTraining(ReducedPriorConfig(**TINY), tmp_path, progress=False).draw()
        assert list(rows) == [f"{name} {i}" for i in (1, 2, 3) for name in ("scene", "drawn")]
    else:
        config = ReducedSaliencyConfig(width=4)
        ReducedSaliencyTraining(config, tmp_path, progress=False).draw()
        assert list(rows) == ["train", "found in train", "test", "found in test"]
    assert {len(images) for images in rows.values()} == {NUM_CLASSES}
