"""Layouts with groups, from the command line: trained on, evaluated, chosen by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import run_command
from layout_helpers import WATERBIRDS, make_spawrious, make_table, make_urbancars, make_waterbirds

from cgn_augment.parts.writing import PartConfig, write_parts
from train_generator.classifier import EnsembleConfig
from train_generator.classifier.ensemble_data import EnsembleSettings, ImagesConfig
from train_generator.cli import program as cli
from train_generator.cli.classifier import classifier
from train_generator.cli.evaluate import evaluate

GROUPS = ("landbird on land", "landbird on water", "waterbird on land", "waterbird on water")


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_waterbirds(tmp_path_factory.mktemp("birds"), masks=True, side=32)


def train(place: str, out: Path, **changes: Any) -> None:
    settings: dict[str, Any] = {
        "train": place,
        "out": str(out),
        "heads": 1,
        "method": "plain",
        "backbone": "resnet10_w32",
        "pretrained": False,
        "batch_size": 4,
        "images": ImagesConfig(image_size=16),
        "training": EnsembleConfig(num_epochs=2, batch_norm="train"),
        "device": "cpu",
        **changes,
    }
    classifier(**settings)


def test_a_layout_is_trained_on_and_evaluated_by_group(
    birds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"waterbirds:{birds}"
    train(place, tmp_path, select="worst_group")
    printed = capsys.readouterr().out
    assert "validation: average " in printed
    assert all(f"{name} " in printed for name in ("worst group", "adjusted average", *GROUPS))
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["classes"] == ["landbird", "waterbird"]
    assert f"kept: epoch {record['kept_epoch']}, the best worst group" in printed
    assert set(record["epochs"][1]["group_accuracies"]) == set(GROUPS)

    model = f"resnet10_w32={tmp_path / 'classifier.pt'}"
    evaluate(model, groups=place, out=str(tmp_path / "out"))
    table = [line.split("|") for line in capsys.readouterr().out.splitlines() if "|" in line]
    images = {row[1].strip(): row[2].strip() for row in table}
    counts = dict(zip(GROUPS, map(str, WATERBIRDS["test"]), strict=True))
    assert {name: images[name] for name in GROUPS} == counts
    assert images["average over images"] == "10"
    known = json.loads((tmp_path / "out" / "evaluation.json").read_text())["classifiers"]
    row = known["classifier.pt"]["groups"]["rows"]["logits"]
    by_name = [row["groups"][name] for name in GROUPS]
    shares = [group["num_right"] / group["num_images"] for group in by_name]
    weights = WATERBIRDS["train"]
    assert row["worst_group_accuracy"] == min(shares)
    assert row["average"] == sum(group["num_right"] for group in by_name) / 10
    pairs = zip(shares, weights, strict=True)
    assert row["adjusted_average"] == pytest.approx(sum(p * n for p, n in pairs) / sum(weights))
    assert (tmp_path / "out" / "groups.png").is_file()


def test_an_ensemble_is_trained_on_parts_chosen_and_evaluated_by_group(
    birds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, parts, out = f"waterbirds:{birds}", tmp_path / "parts", tmp_path / "out"
    write_parts(place, parts, PartConfig(fill="none"), num_workers=0)
    once = EnsembleConfig(num_epochs=1, batch_norm="train")
    kind: dict[str, Any] = {"heads": 3, "method": None, "select": "worst_group"}
    train(place, out, parts=str(parts), training=once, **kind)
    printed = capsys.readouterr().out
    names = "average", "texture", "worst group", "adjusted average", *GROUPS
    assert all(f"{name} " in printed for name in names)
    assert "kept: epoch 1, the best worst group" in printed
    [epoch] = json.loads((out / "results.json").read_text())["epochs"]
    shares = [epoch["group_accuracies"][name] for name in GROUPS]
    assert epoch["worst_group_accuracy"] == min(shares)
    pairs = zip(shares, WATERBIRDS["val"], strict=True)
    assert sum(p * n for p, n in pairs) == pytest.approx(epoch["accuracy"] * sum(WATERBIRDS["val"]))
    evaluate(str(out / "classifier.safetensors"), groups=place, out=str(tmp_path / "evaluation"))
    assert "| worst group " in capsys.readouterr().out


@pytest.mark.parametrize("method", ["cutmix", "groupdro", "dfr", None])
def test_every_peer_is_an_option_of_the_one_command(
    method: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"table:{make_table(tmp_path / 'photos.csv', side=32)}"
    changes: dict[str, Any] = {"method": method}
    if method is None:
        write_parts(place, tmp_path / "parts", PartConfig(fill="none"), num_workers=0)
        changes["parts"] = str(tmp_path / "parts")
    once = EnsembleConfig(num_epochs=1, batch_norm="train")
    train(place, tmp_path / "out", training=once, **changes)
    printed = capsys.readouterr().out
    assert "worst group" in printed
    assert ("last layer: retrained on 8 validation images" in printed) == (method == "dfr")
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["method"] == method


def test_urbancars_has_three_drops_and_spawrious_test_locations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cars = f"urbancars:{make_urbancars(tmp_path / 'cars', side=16)}"
    train(cars, tmp_path / "run", training=EnsembleConfig(num_epochs=1, batch_norm="train"))
    capsys.readouterr()
    model = f"resnet10_w32={tmp_path / 'run' / 'classifier.pt'}"
    evaluate(model, groups=cars, out=str(tmp_path / "cars_out"))
    printed = capsys.readouterr().out
    for name in ("background uncommon", "object uncommon", "background and object uncommon"):
        assert f"| drop, {name} " in printed
    known = json.loads((tmp_path / "cars_out" / "evaluation.json").read_text())["classifiers"]
    row = known["classifier.pt"]["groups"]["rows"]["logits"]
    right = [group["num_right"] / 2 for group in row["groups"].values()]
    train_counts = (4, 1, 1, 1, 1, 1, 1, 4)
    whole = sum(p * n for p, n in zip(right, train_counts, strict=True)) / 14
    assert row["drops"]["background uncommon"] == pytest.approx(whole - (right[2] + right[5]) / 2)
    assert row["drops"]["object uncommon"] == pytest.approx(whole - (right[1] + right[6]) / 2)

    dogs = f"spawrious:{make_spawrious(tmp_path / 'dogs', num=20, side=16)}@o2o_easy"
    torch.save(_four_classes(), tmp_path / "dogs.pt")
    evaluate(f"resnet10_w32={tmp_path / 'dogs.pt'}", groups=dogs, out=str(tmp_path / "dogs_out"))
    printed = capsys.readouterr().out
    assert "there is no image of the group " in printed
    assert "worst group" in printed


def _four_classes() -> dict[str, torch.Tensor]:
    from train_generator.classifier.resnet10 import ResNet10

    return ResNet10(32, 4).state_dict()


def test_the_preset_is_the_published_training(
    birds: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[EnsembleSettings] = []

    def look(settings: EnsembleSettings, *_: Any) -> None:
        seen.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr("train_generator.cli.classifier.make_run", look)
    words = ["classifier", f"waterbirds:{birds}", "elsewhere", "--preset=waterbirds"]
    words += ["--method", "plain", "--training.num_epochs", "3", "--device=cpu"]
    assert run_command(cli.main, monkeypatch, *words) == 130
    [settings] = seen
    assert (settings.train, settings.validation) == (f"waterbirds:{birds}", "elsewhere")
    assert (settings.batch_size, settings.heads, settings.select) == (32, 1, "worst_group")
    assert settings.training == EnsembleConfig(
        num_epochs=3, learning_rate=1e-3, momentum=0.9, weight_decay=1e-3, batch_norm="train"
    )
    assert run_command(cli.main, monkeypatch, *words[:2], "--preset=birds") == 2
    assert "there is no preset 'birds' of a classifier" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method=plain", "--heads=3"], "pass --heads 1"),
        (["--method=groupdro", "--parts=parts"], "method groupdro is trained on real images alone"),
        ([], "or train without them: --method plain"),
    ],
)
def test_options_that_exclude_each_other_are_one_error(
    birds: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    given = ["classifier", f"waterbirds:{birds}", "--device=cpu", "--heads=1", *words]
    given += ["--backbone=resnet10_w32", "--pretrained=false", "--training.batch_norm=train"]
    monkeypatch.chdir(tmp_path)
    assert run_command(cli.main, monkeypatch, *given) == 2
    assert message in capsys.readouterr().err


def test_images_without_groups_or_validation_are_one_error(
    birds: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("cat", "dog"):
        (photos / name).symlink_to(birds / "001.Landbird")
    monkeypatch.chdir(tmp_path)
    given = ["--device=cpu", "--heads=1", "--backbone=resnet10_w32", "--pretrained=false"]
    given += ["--training.batch_norm=train", "--method=groupdro"]
    assert run_command(cli.main, monkeypatch, "classifier", "photos", *given) == 2
    assert "photos has no splits, so say where the validation images" in capsys.readouterr().err
    assert run_command(cli.main, monkeypatch, "classifier", "photos", "photos", *given) == 2
    assert "method groupdro needs the group of each training image" in capsys.readouterr().err
    assert run_command(cli.main, monkeypatch, "evaluate", "x", "--groups", "photos") == 2
    assert "photos says nothing of groups" in capsys.readouterr().err
