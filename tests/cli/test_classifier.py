"""`train-generator classifier`, from folders of images to a classifier in a file."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_tiny_cgn, run_command
from file_helpers import FORKS, names_in, own
from safetensors.torch import save_file
from torchvision.models import shufflenet_v2_x0_5
from torchvision.utils import save_image

from cgn_augment import BankSource, Interventions, Placement
from cgn_augment.errors import ArgumentError, CheckpointError, DataError, UsageError
from cgn_augment.generators import save_cgn
from cgn_augment.images.loading import LoadConfig
from cgn_augment.parts.writing import PartConfig, write_parts
from cgn_augment.shards import ShardConfig, render_shards
from train_generator.classifier import EnsembleConfig, load_ensemble, make_ensemble
from train_generator.classifier.backbones import Preprocessing
from train_generator.classifier.ensemble_data import (
    EnsembleSettings,
    ImagesConfig,
    make_stream,
    open_both,
    resolve_class_map,
)
from train_generator.classifier.sources import Origin, SourceConfig, make_source
from train_generator.cli.classifier import classifier
from train_generator.cli.program import main
from train_generator.robustness import load_predictor

BACKBONE = "timm/test_efficientnet"
CLASSES = ("cat", "dog", "owl")
READING = LoadConfig(4, 0, 0, 1, 0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training and validation images of three classes, a CGN of three, and a backbone's weights."""
    folder = tmp_path_factory.mktemp("data")
    generator = torch.Generator().manual_seed(0)
    for split, num in (("train", 4), ("val", 2)):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
            for i in range(num):
                image = torch.rand(3, 40, 40, generator=generator)
                save_image(image, folder / split / name / f"{i}.png")
    save_cgn(make_tiny_cgn(num_classes=3), folder / "cgn.safetensors")
    model = make_ensemble(BACKBONE, 2, pretrained=False)
    save_file(model.backbone.state_dict(), folder / "backbone.safetensors")
    return folder


def train(place: Path, out: Path, **changes: Any) -> None:
    arguments: dict[str, Any] = {
        "train": str(place / "train"),
        "validation": str(place / "val"),
        "out": str(out),
        "cgn": str(place / "cgn.safetensors"),
        "backbone": BACKBONE,
        "backbone_file": str(place / "backbone.safetensors"),
        "batch_size": 4,
        "source": SourceConfig(bank=6, refresh=1),
        "images": ImagesConfig(image_size=32),
        "training": EnsembleConfig(num_epochs=2, batch_norm="real"),
        "device": "cpu",
        **changes,
    }
    classifier(**arguments)


def test_the_command_makes_a_classifier(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs" / "classifier"
    train(place, out)
    loaded = load_ensemble(out / "classifier.safetensors")
    assert loaded.classes == CLASSES
    assert (loaded.image_size, loaded.mean) == (32, (0.485, 0.456, 0.406))
    facts = json.loads((out / "settings.json").read_text())
    assert facts["settings"]["training"]["batch_norm"] == "real"
    assert facts["settings"]["source"]["bank"] == 6
    printed = capsys.readouterr().out
    file = place / "backbone.safetensors"
    assert f"backbone: {BACKBONE}, weights of {file}; heads: new weights" in printed
    assert "epoch 2: loss " in printed
    assert "background-free" in printed
    assert f"classifier: {out / 'classifier.safetensors'} (2 epochs)" in printed
    with pytest.raises(ArgumentError, match="holds a training: pass --resume to go on with it"):
        train(place, out)
    with pytest.raises(CheckpointError, match=r"num_epochs: 2 then, 3 now"):
        train(place, out, resume=True, training=EnsembleConfig(num_epochs=3, batch_norm="real"))
    with pytest.raises(CheckpointError, match=r"images.min_scale: 0.08 then, 0.5 now"):
        train(place, out, resume=True, images=ImagesConfig(image_size=32, min_scale=0.5))
    shutil.copytree(place / "train", tmp_path / "other")
    for name in CLASSES:
        (tmp_path / "other" / name / "0.png").rename(tmp_path / "other" / name / "9.png")
    with pytest.raises(CheckpointError, match=r"train: '?\w{12}'? then"):
        train(place, out, resume=True, train=str(tmp_path / "other"))
    moved = Path(shutil.copytree(place / "train", tmp_path / "moved"))
    train(place, out, resume=True, train=str(moved))
    assert len(json.loads((out / "results.json").read_text())["epochs"]) == 2


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_two_trainings_do_not_share_a_folder(place: Path, tmp_path: Path) -> None:
    other = FORKS.Process(target=own, args=(tmp_path / "out", False))
    other.start()
    try:
        while not (tmp_path / "out" / "owned").exists():
            time.sleep(0.01)
        with pytest.raises(UsageError, match="another process is writing to"):
            train(place, tmp_path / "out")
    finally:
        other.kill()
        other.join()
    assert names_in(tmp_path / "out") == ["owned"]


def test_counterfactuals_may_come_from_shards_or_from_the_cgn_itself(
    place: Path, tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    render_shards(make_tiny_cgn(num_classes=3).freeze(), shards, ShardConfig(num=16))
    once = EnsembleConfig(num_epochs=1)
    train(place, tmp_path / "from shards", cgn=None, shards=str(shards), training=once)
    train(place, tmp_path / "fresh", source=SourceConfig(bank=0), ratio=0.5, training=once)


@pytest.fixture(scope="module")
def parts(place: Path) -> str:
    """Parts of the training images, each with a rectangle for an object."""
    for path in (place / "train").glob("*/*.png"):
        mask = place / "masks" / path.relative_to(place / "train")
        mask.parent.mkdir(parents=True, exist_ok=True)
        square = torch.zeros(1, 40, 40)
        square[:, 12:30, 8:28] = 1
        save_image(square, mask)
    config = PartConfig(masks=str(place / "masks"), fill="none")
    write_parts(place / "train", place / "parts", config, num_workers=0)
    return str(place / "parts")


def test_a_plain_classifier_of_parts_is_one_that_torchvision_loads(
    place: Path, parts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {
        "cgn": None,
        "parts": parts,
        "heads": 1,
        "backbone": "shufflenet_v2_x0_5",
        "backbone_file": None,
        "pretrained": False,
        "training": EnsembleConfig(num_epochs=1, batch_norm="train"),
    }
    train(place, tmp_path, **settings)
    assert "validation: accuracy " in capsys.readouterr().out
    network = shufflenet_v2_x0_5(num_classes=3)
    network.load_state_dict(torch.load(tmp_path / "classifier.pt"))
    assert json.loads((tmp_path / "results.json").read_text())["classes"] == list(CLASSES)
    predictor = load_predictor(f"shufflenet_v2_x0_5={tmp_path / 'classifier.pt'}")
    assert predictor.num_classes == 3


def test_parts_are_combined_as_the_command_line_says(
    place: Path, parts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[EnsembleSettings] = []

    def look(settings: EnsembleSettings, *_: Any) -> None:
        seen.append(settings)
        raise ArgumentError("that is all")

    monkeypatch.setattr("train_generator.cli.classifier.make_run", look)
    words = ["classifier", place / "train", place / "val", "--parts", parts, "--device=cpu"]
    words += ["--source.placement.scale=[0.5,1.5]", "--source.placement.flip=0.5"]
    words += ["--source.background=other", "--heads=1"]
    assert run_command(main, monkeypatch, *words) == 2
    [settings] = seen
    assert (settings.parts, settings.heads) == (parts, 1)
    source = make_source(
        Origin(parts=parts),
        settings.source,
        size=32,
        classes=CLASSES,
        num=4,
        reading=READING,
        device=torch.device("cpu"),
    )
    assert isinstance(source, BankSource)
    assert source.interventions == Interventions(texture="shape", background="other")
    assert source.placement == Placement(scale=(0.5, 1.5), flip=0.5)
    made = source.sample(64, torch.Generator().manual_seed(0))
    assert torch.equal(made.texture, made.shape)
    assert not (made.background == made.shape).any()
    assert set(made.shape.tolist()) == {0, 1, 2}


@pytest.mark.parametrize(("min_scale", "size"), [(0.3, 37), (1.0, 32)])
def test_parts_arrive_as_the_real_images_do(
    place: Path, parts: str, min_scale: float, size: int
) -> None:
    settings = EnsembleSettings(
        str(place / "train"),
        str(place / "val"),
        parts=parts,
        heads=1,
        batch_size=4,
        images=ImagesConfig(image_size=32, min_scale=min_scale),
        source=SourceConfig(bank=6, refresh=0),
    )
    look = Preprocessing(image_size=32)
    real, _ = open_both(settings, look)
    stream = make_stream(settings, real, look, READING, torch.device("cpu"))
    assert stream.source.image_size == size  # larger where a crop is taken of it
    images, labels = next(iter(stream))
    assert (images.shape, labels.shape) == ((8, 3, 32, 32), (8,))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"heads": 2}, ArgumentError, "heads must be 1 or 3, got 2"),
        ({"cgn": None, "parts": "none"}, DataError, "none holds no complete set of parts"),
        ({"parts": "none"}, ArgumentError, "pass one of --parts, --cgn and --shards"),
        (
            {"cgn": None, "shards": "folder", "source": SourceConfig(background="other")},
            ArgumentError,
            "shards hold counterfactuals that are composed already",
        ),
        (
            {"backbone_file": None, "pretrained": False, "training": EnsembleConfig()},
            ArgumentError,
            "new weights have none: pass --training.batch_norm train",
        ),
        (
            {"cgn": None},
            ArgumentError,
            "from parts, from a CGN or from shards: pass one of --parts",
        ),
        ({"shards": "folder"}, ArgumentError, "pass one of --parts, --cgn and --shards"),
        ({"batch_size": 0}, ArgumentError, "batch_size must be 1 or more, got 0"),
        ({"ratio": -1.0}, ArgumentError, "ratio must be 0 or more, got -1.0"),
        (
            {"cgn": "colored-mnist", "source": SourceConfig(bank=20)},
            ArgumentError,
            "draws 10 classes and the images have 3: say",
        ),
        ({"class_map": {"cow": 1}}, ArgumentError, "class_map has 'cow', which is no class of the"),
        ({"class_map": {"cat": 3}}, ArgumentError, "there are the classes 0 to 2, not 3"),
        ({"batch_size": 13}, ArgumentError, "has no batch: lower batch_size"),
        ({"resume": True}, CheckpointError, "to resume: start without --resume"),
        ({"num_train": 4}, ArgumentError, "num_train is of shards, and an epoch of .* is all"),
        ({"classes": 5}, ArgumentError, "says itself which 3 classes it has: leave classes out"),
    ],
)
def test_what_does_not_fit_is_one_error_and_leaves_nothing(
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
    place: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=message):
        train(place, tmp_path / "out", **changes)
    assert list(tmp_path.iterdir()) == []


def test_validation_images_of_other_classes_are_an_error(place: Path, tmp_path: Path) -> None:
    for name in ("cat", "dog", "emu"):
        (tmp_path / name).mkdir()
        save_image(torch.rand(3, 40, 40), tmp_path / name / "1.png")
    with pytest.raises(ArgumentError, match=r"which differ in \['emu', 'owl'\]: labels would not"):
        train(place, tmp_path / "out", validation=str(tmp_path))
    with pytest.raises(DataError, match=r"there is no folder .*none.* Expected: one folder of"):
        train(place, tmp_path / "out", train=str(place / "none"))


def test_classes_are_joined_by_name() -> None:
    assert resolve_class_map(None, CLASSES, 1000) is None
    named = resolve_class_map("names", ["tench", "golden_retriever"], 1000)
    assert named == {0: [0], 1: [207]}
    given = {"dog": ["golden_retriever", 208], "0": 281, "owl": "great_grey_owl"}
    assert resolve_class_map(given, CLASSES, 1000) == {1: [207, 208], 0: [281], 2: [24]}
    numbers: Any = {0: [1, 2]}  # as YAML gives them
    assert resolve_class_map(numbers, CLASSES, 10) == {0: [1, 2]}
    # A folder that is called 1 is meant by its name, whatever label it has.
    assert resolve_class_map({"1": 5}, ["0", "2", "1"], 10) == {2: [5]}
    with pytest.raises(
        ArgumentError, match=r"class_map has '3', .* cat, dog, owl, or the labels 0"
    ):
        resolve_class_map({"3": 1}, CLASSES, 10)
