"""What users augment with: kinds that blend images, kinds that draw once for a whole batch."""

from __future__ import annotations

from typing import Any

import kornia.augmentation as K
import pytest
import torch
from stream_helpers import StubSource, collect, global_state, one_batch, rows, same, stream
from torch import Tensor, nn
from torchvision import transforms as v1
from torchvision.transforms import v2

from cgn_augment import match_real
from cgn_augment.errors import ArgumentError, ArgumentTypeError, CGNError, DataError
from cgn_augment.functional import isolated_rng
from cgn_augment.stream.augmenting import Augmentation

CPU = torch.device("cpu")


def timm_mixup() -> Any:
    return pytest.importorskip("timm.data").Mixup(num_classes=10)


class Wrapped(nn.Module):
    """A user's module around another one."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images)


BLENDING = {
    "RandomMixUpV2": lambda: K.RandomMixUpV2(),
    "RandomCutMixV2": lambda: K.RandomCutMixV2(use_correct_lambda=True),
    "RandomMosaic": lambda: K.RandomMosaic(),
    "RandomTransplantation": lambda: K.RandomTransplantation(),
    "MixUp": lambda: v2.MixUp(num_classes=10),
    "CutMix": lambda: v2.CutMix(num_classes=10),
    "Mixup": timm_mixup,
}


@pytest.mark.parametrize("name", BLENDING)
@pytest.mark.parametrize("argument", ["augment", "transform"])
def test_what_blends_images_is_refused_with_what_to_do(name: str, argument: str) -> None:
    made = BLENDING[name]()
    take = {
        "augment": lambda: match_real(augment=made),
        "transform": lambda: stream(transform=made),
    }
    message = f"{argument} has {name}, which blends .* to the stream's batches, behind the stream"
    with pytest.raises(ArgumentError, match=message):
        take[argument]()


@pytest.mark.parametrize(
    "nest",
    [
        lambda: nn.Sequential(K.RandomHorizontalFlip(), nn.Sequential(K.RandomMixUpV2())),
        lambda: K.AugmentationSequential(K.RandomMixUpV2(), data_keys=["input"]),
        lambda: K.ImageSequential(K.RandomMosaic()),
        lambda: Wrapped(K.RandomCutMixV2(use_correct_lambda=True)),
        lambda: v2.Compose([v2.RandomHorizontalFlip(), v2.MixUp(num_classes=10)]),
        lambda: v2.RandomChoice([v2.MixUp(num_classes=10), v2.CutMix(num_classes=10)]),
        lambda: v1.Compose([v1.RandomHorizontalFlip(), K.RandomMixUpV2()]),
        lambda: nn.Sequential(v2.RandomApply([v2.CutMix(num_classes=10)])),
    ],
)
def test_it_is_found_wherever_it_is(nest: Any) -> None:
    with pytest.raises(ArgumentError, match="which blends images with one another"):
        match_real(augment=nest())


class TwoInputs(nn.Module):
    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return images + labels[:, None, None, None]


class Halved(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images[::2]


class WithLabels(nn.Module):
    def forward(self, images: Tensor, labels: Any = None) -> Any:
        return images, labels


class Sizes(v2.Transform):
    """Crops at random, to a random size."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return inpt[..., : int(torch.randint(4, 9, ()))]


@pytest.mark.parametrize(
    ("augment", "error", "message"),
    [
        (TwoInputs(), ArgumentError, r"augment \(TwoInputs\) needs more than images, such as lab"),
        (lambda images, labels: images, ArgumentError, "needs more than images"),
        (
            K.AugmentationSequential(K.RandomHorizontalFlip(), data_keys=["input", "mask"]),
            ArgumentError,
            r"\(AugmentationSequential\) needs more than images",
        ),
        (WithLabels(), ArgumentTypeError, r"\(WithLabels\) returned a tuple where images alone"),
        (lambda images: images.numpy(), ArgumentTypeError, "returned a ndarray: it takes a tensor"),
        (Halved(), ArgumentError, r"\(Halved\) made \(2, 3, 8, 8\) of 4 images: it must return \("),
        (lambda images: images[0], ArgumentError, r"made \(3, 8, 8\) of 4 images"),
        (Sizes(), ArgumentError, r"images of several sizes .* end it with a Resize or a crop"),
        (K.RandomHorizontalFlip, ArgumentTypeError, r"augment is the class RandomHorizontalFlip"),
        (3, ArgumentTypeError, "augment must be a module of kornia or torchvision .* got 3"),
    ],
)
def test_what_changes_more_than_images_is_refused(
    augment: Any, error: type[CGNError], message: str
) -> None:
    with pytest.raises(error, match=message), isolated_rng(0, CPU):
        match_real(augment=augment)(torch.zeros(4, 3, 8, 8))


def test_the_transform_of_a_stream_is_held_to_the_same() -> None:
    with pytest.raises(ArgumentTypeError, match=r"transform is the class MatchReal: pass one made"):
        stream(transform=match_real)
    with pytest.raises(ArgumentTypeError, match=r"transform .* returned a tuple"):
        one_batch(rows(), transform=lambda made: (made, 0))
    with pytest.raises(ArgumentTypeError, match="transform must be a module"):
        stream(transform="flip")


def test_a_jigsaw_stays_within_each_image() -> None:
    augment = K.RandomJigsaw(grid=(2, 2), p=1.0)
    numbers = torch.arange(4.0)[:, None, None, None].expand(4, 3, 8, 8) / 4
    with isolated_rng(0, CPU):
        arrived = match_real(augment=augment)(numbers * 2 - 1)
    torch.testing.assert_close(arrived, numbers)


# One draw for each image

RANDOM = {
    "v2": lambda: v2.RandomHorizontalFlip(),
    "v1": lambda: v1.RandomHorizontalFlip(),
    "in a Compose": lambda: v2.Compose([v2.RandomHorizontalFlip()]),
    "in an old Compose": lambda: v1.Compose([v1.RandomHorizontalFlip()]),
    "in a Sequential": lambda: nn.Sequential(nn.Identity(), v2.RandomHorizontalFlip()),
    "with kornia": lambda: nn.Sequential(K.RandomVerticalFlip(p=1.0), v2.RandomHorizontalFlip()),
    "in a RandomApply": lambda: v2.RandomApply([v2.RandomHorizontalFlip(1.0)]),
    "wrapped": lambda: Wrapped(v2.RandomHorizontalFlip()),
}


def slopes(num: int) -> Tensor:
    """Images that rise to the right."""
    return torch.linspace(-1, 1, 8).expand(num, 3, 8, 8).clone()


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("argument", ["augment", "transform"])
def test_torchvisions_transforms_draw_for_each_image(name: str, argument: str) -> None:
    run: Any = RANDOM[name]()
    run = match_real(0.5, 0.5, augment=run) if argument == "augment" else Augmentation("it", run)
    flipped = []
    for seed in (1, 2, 1):
        with isolated_rng(seed, CPU):
            arrived = run(slopes(64))
        assert arrived.shape == (64, 3, 8, 8)
        flipped.append(arrived[:, 0, 0, 0] > 0)
    # Half of 64 draws, with a standard deviation of 4.
    assert all(14 < int(row.sum()) < 50 for row in flipped)
    assert torch.equal(flipped[0], flipped[2])
    assert not torch.equal(flipped[0], flipped[1])


def test_a_stream_draws_them_by_its_seed_and_leaves_the_global_generators_alone() -> None:
    augment = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomErasing(), v2.ColorJitter(0.5)])

    def made() -> Any:
        options = {"transform": match_real(0.5, 0.5, augment=augment), "value_range": None}
        return collect(stream([rows()] * 3, StubSource(), **options))

    before = global_state()
    first = made()
    assert global_state() == before
    torch.manual_seed(9)
    assert same(made(), first)


def test_what_is_kornias_alone_runs_on_the_whole_batch() -> None:
    assert not Augmentation("augment", nn.Sequential(K.RandomHorizontalFlip())).by_image
    assert not Augmentation("augment", Wrapped(nn.Identity())).by_image


def test_modules_of_kornia_run_on_the_batch_beside_those_of_torchvision() -> None:
    seen = []

    class Counting(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(len(images))
            return images

    match_real(augment=nn.Sequential(Counting(), v2.Compose([v2.RandomInvert(), Counting()])))(
        slopes(5)
    )
    assert seen == [5, 5]


def test_no_images_are_no_images_in_either_way() -> None:
    for augment in (v2.RandomHorizontalFlip(), nn.Identity()):
        assert match_real(augment=augment)(torch.zeros(0, 3, 8, 8)).shape == (0, 3, 8, 8)


def test_a_resize_of_torchvision_is_found_too_large_by_the_stream() -> None:
    with pytest.raises(DataError, match=r"arrive as \(3, 9, 9\) and real images as \(3, 8, 8\)"):
        one_batch(rows(), transform=v2.Resize(9))


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("steps", "wrong"),
    [
        ([v1.ToTensor()], "ToTensor"),
        ([v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(MEAN, STD)], "ToTensor"),
        ([v2.PILToTensor()], "PILToTensor"),
        ([v1.Normalize(MEAN, STD)], "Normalize"),
        (
            [v2.ToImage(), v2.Compose([v2.Resize(8), v2.Normalize(MEAN, STD)])],
            "Normalize",
        ),
        ([v2.Normalize([0.5] * 3, [0.5] * 3)], "Normalize"),
        # From [-1, 1] to [0, 1], and then as usual; or by something that nobody knows.
        ([v2.Normalize([-1.0] * 3, [2.0] * 3), v2.Normalize(MEAN, STD)], None),
        ([v2.Lambda(lambda images: images / 2 + 0.5), v2.Normalize(MEAN, STD)], None),
        ([Wrapped(nn.Identity()), v2.Normalize(MEAN, STD)], None),
        ([v2.Normalize([0.0] * 3, [1.0] * 3)], None),
    ],
)
def test_the_transform_of_a_dataset_is_not_that_of_a_stream(
    steps: list[Any], wrong: str | None
) -> None:
    pipeline = v2.Compose(steps)
    if wrong is None:
        stream(transform=pipeline)
        return
    with pytest.raises(ArgumentError, match=f"transform has {wrong}, .* transform=match_real"):
        stream(transform=pipeline)
    with pytest.raises(ArgumentError, match=f"augment has {wrong}, .* alone as its augment"):
        match_real(MEAN, STD, augment=pipeline)
