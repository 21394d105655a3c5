"""Classifiers of every kind behind one interface."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from robustness_helpers import make_digits, save_tiny_ensemble
from torch import nn
from torchvision import models, transforms

from cgn_augment.errors import ArgumentError, CheckpointError, FileError
from cgn_augment.images.imagenet_classes import imagenet_names
from train_generator.classifier import MNISTClassifier
from train_generator.robustness import load_predictor, plain_predictor

TINY = "shufflenet_v2_x0_5"


def test_an_ensemble_has_five_outputs(tmp_path: Path) -> None:
    path = save_tiny_ensemble(tmp_path / "e.safetensors", list("abcd"))
    predictor = load_predictor(str(path))
    assert predictor.outputs == ("shape", "texture", "background", "average", "background_free")
    assert (predictor.num_classes, predictor.image_size) == (4, 32)
    scores = predictor(torch.rand(2, 3, 32, 32))
    assert {tuple(each.shape) for each in scores.values()} == {(2, 4)}
    torch.testing.assert_close(scores["background_free"], (scores["shape"] + scores["texture"]) / 2)
    torch.testing.assert_close(
        scores["average"], (scores["shape"] + scores["texture"] + scores["background"]) / 3
    )


def test_images_are_normalised_as_the_classifier_says() -> None:
    seen = []

    class Looks(nn.Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return images.flatten(1)[:, :2]

    predictor = plain_predictor(Looks(1, 1), 2, image_size=4, mean=(0, 0.5, 1), std=(1, 0.5, 0.25))
    predictor(torch.full((1, 3, 4, 4), 0.75))
    assert seen[0][0, :, 0, 0].tolist() == [0.75, 0.5, -1.0]


def test_cropping_is_the_usual_one_of_imagenet_and_fitting_leaves_what_fits() -> None:
    predictor = make_digits(image_size=224)
    picture = torch.randint(256, (300, 400, 3), generator=torch.Generator().manual_seed(0))
    image = Image.fromarray(picture.to(torch.uint8).numpy())
    usual = transforms.Compose(
        [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]
    )
    assert torch.equal(predictor.cropping(image), usual(image))
    small = image.crop((0, 0, 224, 224))
    assert torch.equal(predictor.fitting(small), transforms.ToTensor()(small))
    assert predictor.fitting(image).shape == (3, 224, 224)


def test_a_cgns_images_are_seen_whole_if_they_have_the_size_and_else_cropped() -> None:
    model = MNISTClassifier()
    predictor = plain_predictor(model, 10, image_size=32)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(predictor.see(images)["logits"], model(images))
    large = torch.rand(1, 3, 64, 64) * 2 - 1
    cropped = predictor.cropping((large + 1) / 2)
    assert cropped.shape == (1, 3, 32, 32)
    assert torch.equal(predictor.see(large)["logits"], predictor(cropped)["logits"])


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_a_checkpoint_of_digits_is_read(prefix: str, tmp_path: Path) -> None:
    model = MNISTClassifier(7)
    state = {prefix + name: value for name, value in model.state_dict().items()}
    torch.save({"model": state, "config": {}}, tmp_path / "digits.pt")
    predictor = load_predictor(str(tmp_path / "digits.pt"))
    assert (predictor.outputs, predictor.num_classes, predictor.classes) == (("logits",), 7, None)
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(predictor.see(images)["logits"], model.eval()(images))


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.zeros(1).expand(10**7, 64), "is expanded to more than there is in the file"),
        (torch.full((7, 64), torch.nan), "holds NaN or infinity"),
        (torch.zeros(7, 64).to_sparse(), "is a sparse or nested tensor"),
    ],
)
def test_weights_of_digits_that_are_none_are_refused_before_a_network_is_made(
    weight: torch.Tensor, message: str, tmp_path: Path
) -> None:
    state = dict(MNISTClassifier(7).state_dict())
    last = [name for name, value in state.items() if value.dim() == 2][-1]
    torch.save({"model": state | {last: weight}}, tmp_path / "digits.pt")
    with pytest.raises(CheckpointError, match=f"{last} {message}") as told:
        load_predictor(str(tmp_path / "digits.pt"))
    assert len(str(told.value).splitlines()) == 1


def test_a_pretrained_classifier_is_its_librarys(tmp_path: Path) -> None:
    whole = models.get_model(TINY, weights=None).eval()
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    predictor = load_predictor(f"{TINY}={tmp_path / 'weights.pth'}")
    assert predictor.classes == imagenet_names()
    assert (predictor.num_classes, predictor.image_size) == (1000, 224)
    images = torch.rand(1, 3, 224, 224)
    normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        expected = whole(normalize(images))
    torch.testing.assert_close(predictor(images)["logits"], expected)


def test_what_is_no_classifier_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileError, match=r"there is no classifier .*nowhere\.pt: pass"):
        load_predictor(str(tmp_path / "nowhere.pt"))
    with pytest.raises(FileError, match="should be an ensemble"):
        load_predictor(str(tmp_path / "nowhere.safetensors"))
    with pytest.raises(ArgumentError, match="torchvision has no image classifier 'resnet5000'"):
        load_predictor("resnet5000")
    (tmp_path / "other.pt").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"holds no MNIST classifier, .* or NAME=.*other.pt"):
        load_predictor(str(tmp_path / "other.pt"))
    torch.save({"model": nn.Linear(3, 2).state_dict()}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="holds no MNIST classifier"):
        load_predictor(str(tmp_path / "other.pt"))
    state = models.get_model(TINY, weights=None).state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith("fc.")}, tmp_path / "body.pth")
    with pytest.raises(ArgumentError, match="has no last layer"):
        load_predictor(f"{TINY}={tmp_path / 'body.pth'}")

    def fail(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(FileError, match=rf"\(no network\): .* {TINY}=FILE"):
        load_predictor(TINY)
