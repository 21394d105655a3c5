"""Classifiers behind one interface, and the command that evaluates them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_tiny_cgn
from imagenet_helpers import make_reduced_cgn
from matplotlib.figure import Figure
from PIL import Image
from robustness_helpers import (
    CATEGORIES,
    NINE,
    make_cue_conflicts,
    make_imagenet9,
    make_reader,
    save_image,
)
from torch import nn
from torchvision import models, transforms

from cgn_augment.errors import ArgumentError, CheckpointError, DataError, FileError
from cgn_augment.generators import SmallCGN, save_cgn
from cgn_augment.images.imagenet_classes import imagenet_names
from train_generator.classifier import MNISTClassifier, make_ensemble, save_ensemble
from train_generator.cli import evaluate as commands
from train_generator.cli import program as cli
from train_generator.cli.evaluate import evaluate, load_predictors, run_parts
from train_generator.robustness import (
    EvaluationConfig,
    EvaluationData,
    EvaluationRecord,
    Part,
    Predictor,
    draw_pictures,
    draw_shape_bias,
    draw_shares,
    find_class_map,
    load_predictor,
    make_parts,
    make_tables,
    plain_predictor,
)

NORMAL = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
TINY = "shufflenet_v2_x0_5"
OUTPUTS = ("shape", "texture", "background", "average", "background_free")


def save_tiny_ensemble(path: Path, classes: list[str]) -> Path:
    """An ensemble on the smallest backbone of torchvision, not trained."""
    model = make_ensemble(TINY, len(classes), pretrained=False)
    save_ensemble(model, path, classes=classes, image_size=32, **NORMAL)
    return path


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of an ensemble of ImageNet's 1000 classes."""
    return str(save_tiny_ensemble(tmp_path_factory.mktemp("e") / "e.safetensors", names()))


def names() -> list[str]:
    """1000 names that none of ImageNet's is like."""
    return [f"class{i:04d}" for i in range(1000)]


# Predictors


def test_an_ensemble_has_five_outputs(ensemble: str) -> None:
    predictor = load_predictor(ensemble)
    assert predictor.outputs == OUTPUTS
    assert (predictor.num_classes, predictor.image_size) == (1000, 32)
    images = torch.rand(2, 3, 32, 32)
    scores = predictor(images)
    assert {name: tuple(each.shape) for name, each in scores.items()} == dict.fromkeys(
        OUTPUTS, (2, 1000)
    )
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
    predictor = plain_predictor(MNISTClassifier(), 10, image_size=224)
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


def test_a_checkpoint_of_digits_is_read(tmp_path: Path) -> None:
    model = MNISTClassifier(7)
    torch.save({"model": model.state_dict(), "config": {}}, tmp_path / "digits.pt")
    predictor = load_predictor(str(tmp_path / "digits.pt"))
    assert (predictor.outputs, predictor.num_classes, predictor.classes) == (("logits",), 7, None)
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(predictor.see(images)["logits"], model.eval()(images))


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


def test_classifiers_are_called_by_their_files(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("a/x.pt", "a/y.pt", "b/x.pt")]
    for path in paths:
        Path(path).parent.mkdir(exist_ok=True)
        torch.save({"model": MNISTClassifier().state_dict()}, path)
    assert list(load_predictors(paths[:2])) == ["x.pt", "y.pt"]
    assert list(load_predictors(paths)) == paths
    assert list(load_predictors(paths[0])) == ["x.pt"]
    with pytest.raises(ArgumentError, match="one classifier or more, and each once"):
        load_predictors([paths[0], paths[0]])
    with pytest.raises(ArgumentError, match="one classifier or more"):
        load_predictors([])


# Classes of a CGN


def digits(num_classes: int = 10, classes: list[str] | None = None) -> Predictor:
    return plain_predictor(
        MNISTClassifier(num_classes), num_classes, classes=classes, image_size=32
    )


def test_labels_are_classes_where_there_are_as_many(tiny_cgn: SmallCGN) -> None:
    found = find_class_map(digits(), tiny_cgn, None)
    assert found.choices == tuple((y,) for y in range(10))


def test_labels_with_imagenets_names_find_their_classes() -> None:
    class Thousand:
        num_classes = 1000

    found = find_class_map(
        digits(2, ["golden retriever", "tench"]),
        Thousand(),  # type: ignore[arg-type]
        None,
    )
    assert found.choices == ((207,), (0,))
    for classes in (None, ["tench", "xyzzy"]):
        with pytest.raises(ArgumentError, match=r"has 2 classes and the CGN 1000: .* --class-map"):
            find_class_map(digits(2, classes), Thousand(), None)  # type: ignore[arg-type]


def test_a_class_map_must_fit_both(tiny_cgn: SmallCGN) -> None:
    assert find_class_map(digits(2), tiny_cgn, {"0": 3, "1": [4, 5]}).choices == ((3,), (4, 5))
    named = digits(2, ["cat", "dog"])
    assert find_class_map(named, tiny_cgn, {"0": 1, "dog": 7}).choices == ((1,), (7,))
    with pytest.raises(ArgumentError, match=r"has '2', which is no class .* the labels 0 to 1"):
        find_class_map(digits(2), tiny_cgn, {"2": 3})
    with pytest.raises(ArgumentError, match="12"):
        find_class_map(digits(2), tiny_cgn, {"1": 12})
    with pytest.raises(ArgumentError, match="has 2 classes and the CGN 10"):
        find_class_map(digits(2), tiny_cgn, None)


# Parts, record, report


def test_each_part_wants_classes_that_it_knows(tmp_path: Path) -> None:
    make_cue_conflicts(tmp_path / "cue")
    make_imagenet9(tmp_path / "nine")
    cue = commands.find_folders(tmp_path / "cue", None, None)
    nine = commands.find_folders(None, tmp_path / "nine", None)
    for found, what in ((cue, "the shape bias"), (nine, "the background gap")):
        data = EvaluationData(*found)
        with pytest.raises(ArgumentError, match=f"{what} needs .* 1000 classes.* has 10 others"):
            make_parts(digits(), data, EvaluationConfig())
        assert len(make_parts(make_reader(0, [0]), data, EvaluationConfig())) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "nothing to measure: name .* --cue-conflict FOLDER, --in9 FOLDER, --real FOLDER, --c"),
        ({"num": 0}, "num must be 1 or more, got 0"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
    ],
)
def test_wrong_data_are_refused(tiny_cgn: SmallCGN, settings: dict[str, int], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        EvaluationData(**({"cgn": tiny_cgn, **settings} if settings else {}))  # type: ignore[arg-type]


def test_what_was_measured_before_an_interruption_is_kept(tmp_path: Path) -> None:
    done = []

    def make(name: str, fails: bool = False, **settings: object) -> Part:
        def measure() -> dict[str, dict[str, object]]:
            if fails:
                raise KeyboardInterrupt
            done.append(name)
            return {"logits": {"accuracy": len(done)}}

        return Part(name, settings, measure)

    path = tmp_path / "evaluation.json"
    with pytest.raises(KeyboardInterrupt, match="goes on with factors of a"):
        run_parts(
            {"a": [make("real", seed=1), make("factors", fails=True)]}, EvaluationRecord(path)
        )
    again = {"a": [make("real", seed=1), make("factors")], "b": [make("real")]}
    measured = run_parts(again, EvaluationRecord(path))
    assert done == ["real", "factors", "real"]
    assert measured["real"] == {"a": {"logits": {"accuracy": 1}}, "b": {"logits": {"accuracy": 3}}}
    before = path.read_bytes()
    with pytest.raises(
        CheckpointError, match=r"real of a with other settings \(seed: 1 then, 2 now\)"
    ):
        run_parts({"c": [make("real")], "a": [make("real", seed=2)]}, EvaluationRecord(path))
    assert len(done) == 3
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"classifiers": {"a": 1}}', '{"classifiers": 3}']
)
def test_a_damaged_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(CheckpointError, match="holds no evaluation, or is cut off: delete it"):
        EvaluationRecord(tmp_path / "evaluation.json")


def test_a_bias_that_does_not_exist_is_a_dash() -> None:
    row = {"shape_bias": None, "shape_accuracy": 0.0, "texture_accuracy": 0.0}
    row |= {"num_cue_decisions": 0, "num_images": 5}
    row["categories"] = {name: {"shape_bias": None} for name in CATEGORIES}
    ((title, table),) = make_tables("cue_conflict", {"mine": {"logits": row}}).items()
    assert title == "Cue-conflict images"
    assert table[1] == ["mine", "logits", "-", "0.0 %", "0.0 %", "0", "5"]
    figure = draw_shape_bias({"mine": {"logits": row}})
    assert len(figure.axes[0].lines) == 1  # points of categories, and no line of all


def test_a_row_is_named_as_shortly_as_it_can_be() -> None:
    def rows(*outputs: str) -> dict[str, dict[str, object]]:
        shares = dict.fromkeys(("shape", "texture", "background"), 0.5)
        row = {"accuracy": shares, "sensitivity": shares, "num_images": 4}
        return dict.fromkeys(outputs, row)

    def names(measured: dict[str, dict[str, dict[str, object]]]) -> list[str]:
        axes = draw_pictures("factors", measured)["sensitivity"].axes[0]
        return [label.get_text() for label in axes.get_yticklabels()]

    assert names({"a": rows("logits"), "b": rows("logits")}) == ["a", "b"]
    assert names({"a": rows("shape", "texture")}) == ["shape", "texture"]
    assert names({"a": rows("x", "y"), "b": rows("logits")}) == ["a: x", "a: y", "b"]


def test_a_grid_needs_rows_of_the_same_columns() -> None:
    with pytest.raises(ArgumentError, match="rows of the same columns"):
        draw_shares({})
    with pytest.raises(ArgumentError, match="rows of the same columns"):
        draw_shares({"a": {"x": 0.5}, "b": {"y": 0.5}})


# The command


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["train-generator", "evaluate", *arguments])
    cli.main()


def test_everything_is_measured_of_an_ensemble_and_goes_into_a_folder(
    tmp_path: Path,
    ensemble: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_cue_conflicts(tmp_path / "cue")
    make_imagenet9(tmp_path / "nine")
    for number in range(3):
        save_image(tmp_path / "real" / f"class{number:04d}" / "x.png", number)
    save_cgn(make_reduced_cgn(), tmp_path / "cgn.safetensors")
    folders = {"cue-conflict": "cue", "in9": "nine", "real": "real", "cgn": "cgn.safetensors"}
    given = [f"--{name}={tmp_path / path}" for name, path in folders.items()]
    given += ["--class-map={0: 1, 7: [2, 4]}", "--num=5", "--batch-size=8"]
    given += [f"--out={tmp_path / 'out'}"]
    run(monkeypatch, ensemble, *given)
    printed = capsys.readouterr().out
    assert "| classifier | output | shape bias |" in printed
    assert (
        "| classifier | output | original | mixed_same | mixed_rand | background gap |" in printed
    )
    assert printed.count("| e.safetensors | background_free | ") == 5
    pictures = {"shape_bias.png", "accuracy.png", "sensitivity.png", "changes.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*pictures, "evaluation.json"}
    parts = json.loads((tmp_path / "out" / "evaluation.json").read_text())["classifiers"][
        "e.safetensors"
    ]
    assert list(parts) == ["cue_conflict", "imagenet9", "real", "factors"]
    assert all(tuple(part["rows"]) == OUTPUTS for part in parts.values())
    assert parts["cue_conflict"]["rows"]["shape"]["num_images"] == 16
    assert parts["real"]["rows"]["average"]["num_images"] == 3
    assert parts["factors"]["settings"]["class_map"] == "ClassMap({0: (1,), 7: (2, 4)})"
    gap = parts["imagenet9"]["rows"]["average"]
    assert gap["background_gap"] == gap["mixed_same"] - gap["mixed_rand"]
    # Again: nothing is measured nor written, and the same is printed.
    record = tmp_path / "out" / "evaluation.json"
    before = record.stat().st_mtime_ns

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    for function in ("cue_conflict", "imagenet9", "real", "factors"):
        monkeypatch.setattr(f"train_generator.robustness.parts.measure_{function}", fail)
    monkeypatch.setattr(commands, "draw_pictures", lambda *_: {})
    monkeypatch.setattr(commands, "draw_changes", lambda *_: Figure())
    run(monkeypatch, ensemble, *given)
    tables = [line for line in printed.splitlines() if line.startswith("|")]
    again = capsys.readouterr().out.splitlines()
    assert [line for line in again if line.startswith("|")] == tables
    assert record.stat().st_mtime_ns == before


def test_digits_of_two_classifiers_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        torch.save({"model": MNISTClassifier().state_dict()}, tmp_path / f"{name}.pt")
    save_cgn(make_tiny_cgn(), tmp_path / "cgn.safetensors")
    given = [str(tmp_path / f"{name}.pt") for name in ("one", "two")]
    out, cgn = str(tmp_path / "out"), str(tmp_path / "cgn.safetensors")
    evaluate(given, cgn=cgn, out=out, num=20, table="plain")
    printed = capsys.readouterr().out
    assert printed.count("one.pt") == printed.count("two.pt") == 2
    with pytest.raises(CheckpointError, match=r"num: 20 then, 10 now"):
        evaluate(given, cgn=cgn, out=out, num=10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is nothing to measure"),
        (["--cue-conflict=nowhere"], "there is no folder nowhere of cue-conflict images"),
        (["--in9=nowhere"], "there is no folder nowhere of ImageNet-9"),
        (["--real=nowhere"], "there is no folder nowhere of real images"),
        (["--cgn=nowhere"], "'nowhere' is neither a file nor the name of a bundled generator"),
        (["--cgn=double-colored-mnist", "--truncation=0.5"], "has no truncation"),
        (["--cgn=double-colored-mnist", "--class-map={0: 77}"], "77"),
    ],
)
def test_what_is_missing_is_one_error_before_any_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": MNISTClassifier().state_dict()}, "digits.pt")
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, "digits.pt", "--out=out", *arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_folder_of_other_classes_is_refused_before_any_work(
    tmp_path: Path, ensemble: str
) -> None:
    save_image(tmp_path / "real" / "cat" / "x.png", 0)
    with pytest.raises(DataError, match=r"1 of the 1 folders of .* are not named after a class"):
        evaluate(ensemble, real=str(tmp_path / "real"), out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_small_classifiers_of_the_groups_themselves_are_evaluated(tmp_path: Path) -> None:
    path = save_tiny_ensemble(tmp_path / "nine.safetensors", list(NINE))
    make_imagenet9(tmp_path / "nine")
    folder = str(tmp_path / "nine" / "original" / "val")
    evaluate(str(path), in9=str(tmp_path / "nine"), real=folder, out=str(tmp_path / "out"))
    parts = json.loads((tmp_path / "out" / "evaluation.json").read_text())["classifiers"]
    rows = parts["nine.safetensors"]
    assert rows["imagenet9"]["rows"].keys() == rows["real"]["rows"].keys() == set(OUTPUTS)
