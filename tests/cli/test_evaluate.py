"""The command that evaluates classifiers, and what it keeps of them."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import torch
from conftest import make_tiny_cgn, run_command
from file_helpers import FORKS, own
from matplotlib.figure import Figure
from robustness_helpers import (
    make_cue_conflicts,
    make_imagenet9,
    save_image,
    save_tiny_ensemble,
)

from cgn_augment.errors import ArgumentError, CheckpointError, UsageError
from cgn_augment.generators import save_cgn
from train_generator.classifier import MNISTClassifier
from train_generator.cli import evaluate as commands
from train_generator.cli import program as cli
from train_generator.cli.evaluate import evaluate, load_predictors, run_parts
from train_generator.robustness import EvaluationRecord, Part

OUTPUTS = ("shape", "texture", "background", "average", "background_free")


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of an ensemble of 1000 classes, whose names none of ImageNet's is like."""
    names = [f"class{i:04d}" for i in range(1000)]
    return str(save_tiny_ensemble(tmp_path_factory.mktemp("e") / "e.safetensors", names))


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
    "text", ["", "{}", "[" * 100_000, "[]", '{"classifiers": {"a": 1}}', '{"classifiers": 3}']
)
def test_a_damaged_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(CheckpointError, match="holds no evaluation, or is cut off: delete it"):
        EvaluationRecord(tmp_path / "evaluation.json")


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
    save_cgn(make_tiny_cgn(), tmp_path / "cgn.safetensors")
    folders = {"cue-conflict": "cue", "in9": "nine", "real": "real", "cgn": "cgn.safetensors"}
    given = [f"--{name}={tmp_path / path}" for name, path in folders.items()]
    given += ["--class-map={0: 1, 7: [2, 4]}", "--num=5", "--batch-size=8"]
    given += [f"--out={tmp_path / 'out'}"]
    assert run_command(cli.main, monkeypatch, "evaluate", ensemble, *given) == 0
    printed = re.sub(" +", " ", capsys.readouterr().out)
    assert "| classifier | output | shape bias |" in printed
    assert "| output | original | mixed_same | mixed_rand | background gap |" in printed
    assert printed.count("| e.safetensors | background_free | ") == 5
    pictures = {"shape_bias.png", "accuracy.png", "sensitivity.png", "changes.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*pictures, "evaluation.json"}
    record = tmp_path / "out" / "evaluation.json"
    parts = json.loads(record.read_text())["classifiers"]["e.safetensors"]
    assert list(parts) == ["cue_conflict", "imagenet9", "real", "factors"]
    assert all(tuple(part["rows"]) == OUTPUTS for part in parts.values())
    assert parts["cue_conflict"]["rows"]["shape"]["num_images"] == 16
    assert parts["real"]["rows"]["average"]["num_images"] == 3
    assert parts["factors"]["settings"]["class_map"] == "ClassMap({0: (1,), 7: (2, 4)})"
    gap = parts["imagenet9"]["rows"]["average"]
    assert gap["background_gap"] == gap["mixed_same"] - gap["mixed_rand"]
    # Again: nothing is measured nor written, and the same is printed.
    before = record.stat().st_mtime_ns

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    for function in ("cue_conflict", "imagenet9", "real", "factors"):
        monkeypatch.setattr(f"train_generator.robustness.parts.measure_{function}", fail)
    monkeypatch.setattr(commands, "draw_pictures", lambda *_: {})
    monkeypatch.setattr(commands, "draw_changes", lambda *_: Figure())
    assert run_command(cli.main, monkeypatch, "evaluate", ensemble, *given) == 0
    tables = [line for line in printed.splitlines() if line.startswith("|")]
    again = re.sub(" +", " ", capsys.readouterr().out).splitlines()
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


def test_two_evaluations_do_not_share_a_folder(tmp_path: Path) -> None:
    save_cgn(make_tiny_cgn(), tmp_path / "cgn.safetensors")
    torch.save({"model": MNISTClassifier().state_dict()}, tmp_path / "one.pt")
    other = FORKS.Process(target=own, args=(tmp_path / "out", False))
    other.start()
    while not (tmp_path / "out" / "owned").exists():
        time.sleep(0.01)
    cgn, out = str(tmp_path / "cgn.safetensors"), str(tmp_path / "out")
    try:
        with pytest.raises(UsageError, match="another process is writing to"):
            evaluate(str(tmp_path / "one.pt"), cgn=cgn, out=out, num=10)
    finally:
        other.kill()
        other.join()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is nothing to measure"),
        (["--cue-conflict=nowhere"], "there is no folder nowhere of cue-conflict images"),
        (["--in9=nowhere"], "there is no folder nowhere of ImageNet-9"),
        (["--real=nowhere"], "there is no folder nowhere of real images"),
        (["--real=real"], "1 of the 1 folders of real are not named after a class"),
        (["--cgn=nowhere"], "'nowhere' is neither a file nor the name of a bundled generator"),
        (["--cgn=double-colored-mnist", "--truncation=0.5"], "has no truncation"),
        (["--cgn=double-colored-mnist", "--class-map={0: 77}"], "77"),
        (["--cgn=double-colored-mnist", "--class-map={0: 7}"], "two classes or more"),
        (["--cgn=double-colored-mnist", "--num=0"], "num must be 1 or more, got 0"),
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
    save_image(Path("real/cat/x.png"), 0)
    given = ("evaluate", "digits.pt", "--out=out", *arguments)
    assert run_command(cli.main, monkeypatch, *given) == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists()
