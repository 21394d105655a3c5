"""The perceptual loss and its features: maps of VGG-16, weights from files, training, messages."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import IO
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import vgg16

from cgn_augment import files as files_module
from cgn_augment.errors import (
    ArgumentError,
    ArgumentTypeError,
    CGNError,
    CheckpointError,
    FileError,
)
from train_generator.losses.perceptual import (
    PerceptualFeatures,
    load_vgg16_features,
    make_features,
    perceptual_loss,
    random_vgg16_features,
    released_gram_weights,
    train_features,
)
from train_generator.losses.perceptual import trained as trained_module
from train_generator.losses.perceptual.features import draw_he_normal

VGG_FILE = "vgg16-397923af.pth"
RELUS = (3, 8, 15, 22)  # before the max-pools 4, 9, 16 and 23 of torchvision's features


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw_images(generator: torch.Generator, num: int = 2, size: int = 32) -> Tensor:
    return torch.rand(num, 3, size, size, generator=generator) * 2 - 1


def small_features(seed: int = 0) -> PerceptualFeatures:
    """Three blocks of few channels."""
    with torch.device("meta"):
        layers = nn.Sequential(
            *[nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)],
            *[nn.Conv2d(4, 5, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 6, 3), nn.ReLU()],
        )
    layers = layers.to_empty(device="cpu")
    draw_he_normal(layers, seeded(seed))
    return PerceptualFeatures(layers)


def draw_two_classes(num: int = 32, size: int = 8) -> tuple[Tensor, Tensor]:
    """Noisy images that are dark for class 0 and bright for class 1."""
    labels = torch.arange(num) % 2
    noise = torch.randn(num, 3, size, size, generator=seeded(1)) * 0.1
    return (labels - 0.5).view(-1, 1, 1, 1) + noise, labels


def train_quickly(seed: int = 0, **settings: int) -> PerceptualFeatures:
    settings = {"num_steps": 3, "batch_size": 8, **settings}
    return train_features(*draw_two_classes(), seed, progress=False, **settings)


@pytest.fixture(scope="module")
def vgg() -> nn.Sequential:
    """All 31 layers of torchvision's features, with random weights and biases, in eval mode."""
    with torch.device("meta"):
        layers = vgg16(weights=None).features
    layers = layers.to_empty(device="cpu").eval()
    generator = seeded(7)
    for part in layers:
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, generator=generator)
            nn.init.normal_(part.bias, 0.0, 0.1, generator=generator)
    return layers


@pytest.fixture(scope="module")
def state(vgg: nn.Sequential) -> dict[str, Tensor]:
    """As in torchvision's file; the classifier's weights are made small."""
    weights = {f"features.{name}": value.detach() for name, value in vgg.state_dict().items()}
    return {**weights, "classifier.0.weight": torch.zeros(4, 4)}


@pytest.fixture(scope="module")
def vgg_path(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def random_features() -> PerceptualFeatures:
    return random_vgg16_features(0)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that torch.hub keeps its downloads in; any download fails the test."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def refuse(*_args: object, **_settings: object) -> None:
        pytest.fail("nothing must be downloaded")

    monkeypatch.setattr(files_module, "_receive", refuse)
    return tmp_path / "hub" / "checkpoints"


# features


def test_a_block_ends_before_each_max_pool() -> None:
    features = small_features()
    images = draw_images(seeded())
    convs = [part for part in features.modules() if isinstance(part, nn.Conv2d)]
    expected = []
    hidden = images
    for k, conv in enumerate(convs):
        hidden = F.max_pool2d(hidden, 2) if k else hidden
        hidden = F.conv2d(hidden, conv.weight, conv.bias).clamp(min=0)
        expected.append(hidden)
    torch.testing.assert_close(features(images), expected)
    assert features.num_blocks == 3


def test_features_are_frozen_and_images_get_the_gradient() -> None:
    features = small_features()
    images = draw_images(seeded()).requires_grad_()
    kept = images.detach().clone()
    sum(block.sum() for block in features(images)).backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in features.parameters())
    assert all(parameter.grad is None for parameter in features.parameters())
    assert torch.equal(images.detach(), kept)


def test_features_stay_in_eval_mode_within_a_module_that_is_trained() -> None:
    features = PerceptualFeatures([nn.BatchNorm2d(3), nn.Dropout(0.5)])
    whole = nn.ModuleList([features, nn.Dropout()]).train()
    assert whole[1].training
    assert not any(part.training for part in features.modules())
    images = draw_images(seeded())
    torch.testing.assert_close(features(images)[0], images)


def test_images_that_cannot_be_used_are_errors() -> None:
    features = small_features()
    with pytest.raises(ArgumentError, match=r"\(B, 3, H, W\) .* of 4 or more, got \(2, 1, 8, 8\)"):
        features(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ArgumentError, match=r"of 4 or more, got \(3, 8, 8\)"):
        features(torch.zeros(3, 8, 8))
    with pytest.raises(ArgumentError, match=r"of 4 or more, got \(2, 3, 8, 3\)"):
        features(torch.zeros(2, 3, 8, 3))
    with pytest.raises(ArgumentTypeError, match=r"floating point in \[-1, 1\], got torch.uint8"):
        features(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    for num_blocks in (0, 4):
        with pytest.raises(ArgumentError, match=f"num_blocks must be 1 to 3, got {num_blocks}"):
            features(torch.zeros(2, 3, 8, 8), num_blocks)
    with pytest.raises(ArgumentError, match=r"^layers must not be empty"):
        PerceptualFeatures([])


# loss


class Constant(PerceptualFeatures):
    """Two blocks of constant maps, of 2 and of 4 channels: an image's first pixel, and its half."""

    def __init__(self) -> None:
        super().__init__([nn.Identity(), nn.MaxPool2d(2)])

    def forward(self, images: Tensor, num_blocks: int | None = None) -> list[Tensor]:
        value = images[:, :1, :1, :1]
        return [value.expand(-1, 2, 4, 4), (value / 2).expand(-1, 4, 2, 2)][:num_blocks]


def constant_images(*values: float) -> Tensor:
    return torch.tensor(values).float().view(-1, 1, 1, 1).expand(-1, 3, 8, 8)


def test_the_loss_is_the_weighted_sum_of_mean_differences_of_gram_matrices() -> None:
    # Gram matrices of constant maps v are v^2 / C in all entries.
    loss = perceptual_loss(Constant(), constant_images(2), constant_images(4), (0.25, 2))
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0.25 * (16 - 4) / 2 + 2 * (4 - 1) / 4)


def test_image_b_is_compared_with_image_b_and_the_median_is_the_least_loss() -> None:
    real = constant_images(1, 2, 4)
    assert perceptual_loss(Constant(), real, real, (1, 0)).item() == 0
    # 1, 4, 16 against 16, 1, 4, and two channels; the mean over the batch is the same.
    loss = perceptual_loss(Constant(), real, real.roll(1, 0), (1, 0))
    assert loss.item() == pytest.approx((15 + 3 + 12) / 3 / 2)
    losses = {
        value: perceptual_loss(Constant(), constant_images(value, value, value), real, (1, 0))
        for value in (0.5, 1.5, 2.0, 2.5, 3.5)
    }
    assert min(losses, key=losses.__getitem__) == 2.0


def test_the_losses_gradient_is_that_of_finite_differences() -> None:
    features = small_features().double()
    generated = draw_images(seeded(1), size=12).double().requires_grad_()
    real = draw_images(seeded(2), size=12).double()
    assert torch.autograd.gradcheck(
        lambda images: perceptual_loss(features, images, real, (1, 2, 0)), generated, fast_mode=True
    )


def test_the_real_images_get_no_gradient() -> None:
    generated, real = draw_images(seeded(1)).requires_grad_(), draw_images(seeded(2))
    real.requires_grad_()
    features = small_features()
    graphs = []
    features.register_forward_hook(lambda _f, _i, maps: graphs.append(maps[0].requires_grad))
    perceptual_loss(features, generated, real, (1, 1, 1)).backward()
    assert real.grad is None
    assert generated.grad is not None
    assert generated.grad.abs().sum() > 0
    assert sorted(graphs) == [False, True]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [((0, 0, 0), []), ((1, 0, 0), [0]), ((0, 1, 0), [0, 1]), ((1, 0, 1), [0, 1, 2])],
)
def test_blocks_after_the_last_weight_are_not_computed(
    weights: tuple[float, ...], expected: list[int]
) -> None:
    features = small_features()
    ran = []
    for k, block in enumerate(features.blocks):
        block.register_forward_hook(lambda *_args, k=k: ran.append(k))
    images, larger = draw_images(seeded(1)), draw_images(seeded(2), size=48)
    loss = perceptual_loss(features, images, larger, weights)
    assert sorted(ran) == sorted(2 * expected)
    assert bool(loss > 0) == bool(expected)


def test_losses_that_cannot_be_computed_are_errors() -> None:
    features = small_features()
    images = draw_images(seeded())
    with pytest.raises(ArgumentError, match="one for each of the 3 blocks, got 4"):
        perceptual_loss(features, images, images, (1, 1, 1, 0))
    with pytest.raises(ArgumentError, match="must be equally many, got 2 and 1"):
        perceptual_loss(features, images, images[:1], (1, 1, 1))
    for weight in (-1.0, math.nan, math.inf):
        with pytest.raises(ArgumentError, match=rf"finite and 0 or more, got \[1, 1, {weight}\]"):
            perceptual_loss(features, images, images, (1, 1, weight))


def test_released_weights_are_squared_and_multiplied_by_5000() -> None:
    assert released_gram_weights((0.05, 0.1, 0.01, 0)) == pytest.approx((12.5, 50, 0.5, 0))
    assert released_gram_weights([4]) == (80_000.0,)
    for weight in (-0.1, math.nan):
        with pytest.raises(ArgumentError, match=rf"finite and 0 or more, got \[0.1, {weight}\]"):
            released_gram_weights((0.1, weight))


# VGG-16 from a file


@pytest.mark.parametrize("kind", ["full", "features", "legacy", "double"])
def test_maps_are_those_of_torchvisions_vgg16(
    kind: str,
    vgg: nn.Sequential,
    state: dict[str, Tensor],
    vgg_path: Path,
    tmp_path: Path,
    hub: Path,
) -> None:
    path = vgg_path if kind == "full" else tmp_path / "vgg16.pth"
    if kind == "features":
        torch.save(vgg.state_dict(), path)
    elif kind == "double":
        torch.save({name: value.double() for name, value in state.items()}, path)
    elif kind == "legacy":  # the format of torchvision's own file
        torch.save(state, path, _use_new_zipfile_serialization=False)
    images = draw_images(seeded(3), num=1)
    expected: dict[int, Tensor] = {}

    def keep(index: int) -> Callable[..., None]:
        return lambda _layer, _inputs, output: expected.update({index: output.clone()})

    handles = [vgg[index].register_forward_hook(keep(index)) for index in RELUS]
    with torch.no_grad():
        vgg(images)
    for handle in handles:
        handle.remove()
    before = torch.get_rng_state()
    features = load_vgg16_features(str(path))
    assert torch.equal(torch.get_rng_state(), before)
    assert not hub.exists()
    assert all(parameter.dtype == torch.float32 for parameter in features.parameters())
    maps = features(images)
    torch.testing.assert_close(maps, [expected[index] for index in RELUS])


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path, hub: Path) -> None:
    with pytest.raises(FileError, match=r"no file .*none.pth: pass that of a state"):
        load_vgg16_features(tmp_path / "none.pth")
    with pytest.raises(FileError, match="no file"):
        load_vgg16_features(tmp_path)
    assert not hub.exists()


def test_weights_of_another_network_are_an_error(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    shape = r"must have the shape \(512, 256, 3, 3\), got"
    for change, message in (
        ({"features.17.weight": state["features.19.weight"]}, rf"{shape} \(512, 512, 3, 3\)"),
        ({"features.17.weight": None}, f"{shape} nothing"),
    ):
        changed = {name: value for name, value in {**state, **change}.items() if value is not None}
        torch.save(changed, path)
        with pytest.raises(CheckpointError, match=f"not a VGG-16: features.17.weight {message}"):
            load_vgg16_features(path)
    path.write_bytes(path.read_bytes()[:99])  # all else of it is proved where CGNs are read
    with pytest.raises(CheckpointError, match=r"other.pth cannot be read; it is cut off"):
        load_vgg16_features(path)
    torch.save({}, path)
    with pytest.raises(CheckpointError, match=r"not a VGG-16: 0.weight .* got nothing"):
        load_vgg16_features(path)


# VGG-16 downloaded


def test_weights_are_downloaded_once_and_checked_by_hash(
    hub: Path, vgg_path: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def receive(url: str, file: IO[bytes], progress: bool) -> str:
        calls.append((url, progress))
        file.write(vgg_path.read_bytes())
        return "397923af" + 56 * "0"

    monkeypatch.setattr(files_module, "_receive", receive)
    for _ in range(2):
        features = load_vgg16_features(progress=False)
        assert torch.equal(features.blocks[0][0].weight, state["features.0.weight"])
    url = f"https://download.pytorch.org/models/{VGG_FILE}"
    assert calls == [(url, False)]
    assert [path.name for path in hub.iterdir()] == [VGG_FILE]


def test_a_download_that_fails_says_how_to_get_the_file(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = RuntimeError('invalid hash value (expected "397923af", got "00000000")')

    def fail(*_args: object) -> None:
        raise failure

    monkeypatch.setattr(files_module, "_receive", fail)
    with pytest.raises(CheckpointError, match="could not be downloaded") as caught:
        make_features("vgg16")
    message = str(caught.value)
    assert str(failure) in message
    assert f"fetch https://download.pytorch.org/models/{VGG_FILE} where" in message
    assert f"save it as {hub / VGG_FILE}" in message
    assert "random_vgg16_features or train_features" in message
    assert caught.value.__cause__ is failure


# VGG-16 with random weights


def test_random_weights_follow_the_seed_alone(random_features: PerceptualFeatures) -> None:
    before = torch.get_rng_state()
    again, other = random_vgg16_features(0), random_vgg16_features(1)
    assert torch.equal(torch.get_rng_state(), before)
    weights = [
        [part.weight for part in features.modules() if isinstance(part, nn.Conv2d)]
        for features in (random_features, again, other)
    ]
    assert len(weights[0]) == 10
    assert all(map(torch.equal, weights[0], weights[1]))
    assert not any(map(torch.equal, weights[0], weights[2]))


def test_random_weights_are_he_normal(random_features: PerceptualFeatures) -> None:
    for part in random_features.modules():
        if isinstance(part, nn.Conv2d):
            deviation = math.sqrt(2 / (part.in_channels * 9))
            # 1728 numbers or more: the relative error of the deviation is 0.017.
            assert part.weight.std().item() == pytest.approx(deviation, rel=0.06)
            assert part.weight.mean().item() == pytest.approx(0, abs=0.1 * deviation)
            assert torch.equal(part.bias, torch.zeros_like(part.bias))


def test_random_features_tell_textures_apart(random_features: PerceptualFeatures) -> None:
    wide = torch.tensor([1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0]).repeat(4)
    stripes = [wide, wide.roll(2), torch.tensor([1.0, -1.0]).repeat(16)]
    first, shifted, other = (stripe.expand(1, 3, 32, 32).contiguous() for stripe in stripes)
    weights = (1, 1, 1, 1)
    near = perceptual_loss(random_features, shifted, first, weights)
    far = perceptual_loss(random_features, other, first, weights)
    assert far > 4 * near


# trained


def test_trained_features_follow_the_seed_alone() -> None:
    torch.manual_seed(1)
    features = train_quickly(0)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again, other = train_quickly(0).state_dict(), train_quickly(1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(parameter.requires_grad for parameter in features.parameters())
    first = features.state_dict()
    assert len(first) == 16  # weights and biases of eight convolutions; no normalisation
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_training_learns_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    cross_entropy = F.cross_entropy

    def keep(scores: Tensor, labels: Tensor) -> Tensor:
        loss = cross_entropy(scores, labels)
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(F, "cross_entropy", keep)
    train_quickly(num_steps=25, batch_size=16)
    assert len(losses) == 25
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)  # the head starts at zero
    assert losses[-1] < 0.1


def test_every_block_is_trained() -> None:
    states = [train_quickly(num_steps=num_steps).state_dict() for num_steps in (2, 3)]
    weights = [name for name in states[0] if name.endswith("weight")]
    assert len(weights) == 8
    assert not any(torch.equal(states[0][name], states[1][name]) for name in weights)


def test_folding_the_normalisation_keeps_the_features() -> None:
    classifier = trained_module._make_classifier(2, seeded(4)).train()
    images, _ = draw_two_classes()
    for part in classifier.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight, 1.0, 0.2, generator=seeded(5))
            nn.init.normal_(part.bias, 0.0, 0.2, generator=seeded(6))
    with torch.no_grad():
        classifier(images)  # moves the running statistics
        expected = []
        hidden = images
        for block in classifier.eval().blocks:
            hidden = block(hidden)
            expected.append(hidden)
        maps = PerceptualFeatures(trained_module._fold(classifier))(images)
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)


def test_progress_is_a_bar_on_standard_error_or_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    train_quickly()
    assert capsys.readouterr() == ("", "")
    train_features(*draw_two_classes(), num_steps=2, batch_size=4)
    out, err = capsys.readouterr()
    assert out == ""
    assert "training features: 100%" in err


def test_training_data_that_cannot_be_used_are_errors() -> None:
    images, labels = draw_two_classes()

    def train(images: Tensor = images, labels: Tensor = labels, **settings: int) -> None:
        train_features(images, labels, progress=False, **settings)

    with pytest.raises(ArgumentError, match=r"\(B, 3, H, W\) .* 8 or more, got \(32, 3, 4, 8\)"):
        train(images[:, :, :4])
    with pytest.raises(ArgumentError, match=r"^images must have .* got \(32, 1, 8, 8\)"):
        train(images[:, :1])
    with pytest.raises(ArgumentTypeError, match=r"^images must be floating point .*torch.uint8"):
        train(images.byte())
    with pytest.raises(ArgumentError, match=r"each of the 32 images, got the shape \(31,\)"):
        train(labels=labels[:31])
    for wrong in (labels.float(), labels > 0):
        with pytest.raises(ArgumentTypeError, match=f"integer classes, got {wrong.dtype}"):
            train(labels=wrong)
    for wrong, found in ((labels * 0 + 3, r"\[3\]"), (labels - 1, r"\[-1, 0\]")):
        with pytest.raises(ArgumentError, match=f"two classes or more, from 0 on, got {found}"):
            train(labels=wrong)
    with pytest.raises(ArgumentError, match=r"two classes or more, from 0 on, got \[\]"):
        train(images[:0], labels[:0])
    for name in ("num_steps", "batch_size"):
        with pytest.raises(ArgumentError, match=f"^{name} must be 1 or more, got 0"):
            train(**{name: 0})
    with pytest.raises(ArgumentError, match="images must be finite"):
        train(images * math.nan, num_steps=2)


# choice


def test_each_kind_is_what_its_function_makes(
    vgg_path: Path, random_features: PerceptualFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = draw_two_classes()
    made = make_features("vgg16", path=vgg_path, images=images, labels=labels).state_dict()
    expected = load_vgg16_features(vgg_path).state_dict()
    assert all(torch.equal(made[name], expected[name]) for name in expected)
    made = make_features("random", seed=0, images=images, labels=labels).state_dict()
    expected = random_features.state_dict()
    assert all(torch.equal(made[name], expected[name]) for name in expected)
    train = Mock()
    monkeypatch.setattr("train_generator.losses.perceptual.train_features", train)
    make_features("trained", seed=5, images=images, labels=labels, progress=False)
    train.assert_called_once_with(images, labels, 5, progress=False)


def test_choices_that_cannot_be_made_are_errors(vgg_path: Path) -> None:
    images, labels = draw_two_classes()
    with pytest.raises(ArgumentError, match="kind must be one of vgg16, random, trained, got 'vg"):
        make_features("vgg19")
    for kind in ("random", "trained"):
        with pytest.raises(ArgumentError, match=f"kind is '{kind}': leave path out"):
            make_features(kind, path=vgg_path, images=images, labels=labels)
    for given in ({}, {"images": images}, {"labels": labels}):
        with pytest.raises(CGNError, match="images and labels must be given"):
            make_features("trained", **given)


@pytest.mark.gpu
def test_features_on_a_gpu_are_those_on_a_cpu() -> None:
    features, images = small_features(), draw_images(seeded())
    expected = features(images)
    torch.testing.assert_close([block.cpu() for block in features.cuda()(images.cuda())], expected)
    data = [values.cuda() for values in draw_two_classes()]
    made = train_features(*data, num_steps=2, progress=False)
    assert all(parameter.is_cuda for parameter in made.parameters())
