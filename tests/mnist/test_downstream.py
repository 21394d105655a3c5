"""The downstream table: each run once, refused with other settings, resumed after a stop."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_tiny_cgn
from file_helpers import FORKS, own_file
from torch import nn

from cgn_augment import Parts, RealShapeSource
from cgn_augment.errors import ArgumentError, CheckpointError, FileError, UsageError
from cgn_augment.functional import isolated_rng
from cgn_augment.generators import SmallCGN
from cgn_augment.masks import UNetMasker, save_masker
from train_generator.classifier import MNISTClassifier
from train_generator.cli import mnist as commands
from train_generator.mnist import (
    DownstreamConfig,
    DownstreamResult,
    DownstreamRun,
    downstream,
    downstream_table,
    make_variant,
    procedural_textures,
    run_downstream,
)

CONFIG = DownstreamConfig(num_epochs=2, batch_size=16, bank=20, num_train=64, num_test=40)


def make_run(folder: Path, cgn: SmallCGN | None, seed: int = 0, **changes: object) -> DownstreamRun:
    name = "decorrelated" if cgn is None else "ours"
    run = DownstreamRun(folder, "double_colored", name, cgn, seed, CONFIG)
    return replace(run, **changes)


def train(*runs: DownstreamRun) -> list[DownstreamResult]:
    return run_downstream(runs, progress=False)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes each run that is trained."""
    names: list[str] = []
    original = DownstreamRun.train

    def note(run: DownstreamRun, *data: object, progress: bool) -> DownstreamResult:
        names.append(run.path.stem)
        return original(run, *data, progress=progress)

    monkeypatch.setattr(DownstreamRun, "train", note)
    return names


@pytest.fixture(scope="module")
def whole(tiny_cgn: SmallCGN, tmp_path_factory: pytest.TempPathFactory) -> DownstreamRun:
    """A run that is complete."""
    run = make_run(tmp_path_factory.mktemp("whole") / "new", tiny_cgn)
    train(run)
    return run


def test_a_run_is_one_file_that_says_all_and_is_never_repeated(
    whole: DownstreamRun, trained: list[str]
) -> None:
    assert [path.name for path in whole.folder.iterdir()] == ["double_colored-ours-seed0.json"]
    record = json.loads(whole.path.read_text())
    settings, result = record["settings"], record["result"]
    assert settings["cgn"] == whole.cgn.fingerprint
    assert settings.items() >= {"num_epochs": 2, "bank": 20, "refresh": 8, "seed": 0}.items()
    assert record.keys() >= {"versions", "device", "threads"}
    assert [epoch["epoch"] for epoch in result["epochs"]] == [1, 2]
    assert result["test_accuracy"] == result["epochs"][1]["test_accuracy"]
    assert train(whole) == [whole.read()]
    assert trained == []


def test_runs_with_other_seeds_fill_the_same_folder(
    tiny_cgn: SmallCGN, tmp_path: Path, trained: list[str]
) -> None:
    config = replace(CONFIG, num_epochs=1)
    runs = [
        make_run(tmp_path, cgn, seed, config=config) for cgn in (tiny_cgn, None) for seed in (0, 1)
    ]
    second, fourth = train(runs[1], runs[3])
    results = train(*runs)
    assert results[1::2] == [second, fourth]
    assert len(trained) == 4
    assert results[0].epochs[0].loss != second.epochs[0].loss
    table = downstream_table(results)
    assert [row[:2] + row[4:] for row in table[1:]] == [
        ["double colored", "ours", "0, 1"],
        ["double colored", "decorrelated", "0, 1"],
    ]
    with pytest.raises(ArgumentError, match="the same variant, row and seed: list each once"):
        train(runs[0], runs[0])


def test_a_file_of_other_settings_is_refused_before_anything_is_trained(
    whole: DownstreamRun, trained: list[str]
) -> None:
    for changes, message in (
        ({"config": replace(CONFIG, num_epochs=3)}, "num_epochs: 2 then, 3 now"),
        ({"config": replace(CONFIG, num_test=41)}, "num_test: 40 then, 41 now"),
        ({"cgn": make_tiny_cgn(seed=9).freeze()}, f"cgn: '{whole.cgn.fingerprint}' then"),
    ):
        with pytest.raises(CheckpointError, match=f"run with other settings .*{message}"):
            train(make_run(whole.folder, None), replace(whole, **changes))
    assert trained == []


def test_other_textures_are_other_settings(tmp_path: Path) -> None:
    run = DownstreamRun(tmp_path, "wildlife", "decorrelated", None, 0, CONFIG)
    same, other = (replace(run, textures=procedural_textures(seed)) for seed in (0, 1))
    assert run.settings == same.settings
    assert run.settings["textures"] != other.settings["textures"]


def test_a_damaged_file_is_refused(tiny_cgn: SmallCGN, tmp_path: Path) -> None:
    run = make_run(tmp_path, tiny_cgn)
    for text in ("", "[]", "{}", "[" * 100_000, '{"settings": 1, "result": null}'):
        run.path.write_text(text)
        with pytest.raises(CheckpointError, match="holds no run, or is cut off: delete it"):
            train(run)
    run.path.unlink()
    run.path.with_suffix(".pt").write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match="is cut off: "):
        train(run)


def train_and_count(
    run: DownstreamRun, monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None
) -> tuple[list[DownstreamResult], int]:
    """Trains a run; presses Ctrl-C while step `stop_after` is computed. Returns steps made too."""
    make, steps = DownstreamRun._make_classifier, []

    def look(model: nn.Module, *_: object) -> None:
        steps.extend([1] * model.training)
        if model.training and len(steps) == stop_after:
            os.kill(os.getpid(), signal.SIGINT)

    def make_and_hook(self: DownstreamRun, *data: object) -> object:
        classifier = make(self, *data)
        classifier.model.register_forward_hook(look)
        return classifier

    results: list[DownstreamResult] = []
    with monkeypatch.context() as patch:
        patch.setattr(DownstreamRun, "_make_classifier", make_and_hook)
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            results = train(run)
        except KeyboardInterrupt:
            assert len(steps) == stop_after
        finally:
            signal.signal(signal.SIGINT, handler)
    return results, len(steps)


def test_a_stopped_run_goes_on_to_the_same_results(
    whole: DownstreamRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replace(whole, folder=tmp_path)
    assert train_and_count(run, monkeypatch, 6) == ([], 6)
    assert run.path.with_suffix(".pt").is_file()
    assert run.read() is None
    with pytest.raises(CheckpointError, match="other settings"):  # even before it is complete
        train(replace(run, config=replace(CONFIG, bank=30)))
    assert train_and_count(run, monkeypatch) == ([whole.read()], 2)
    assert [path.suffix for path in run.folder.iterdir()] == [".json"]


def test_a_run_killed_before_its_first_epoch_starts_again(
    whole: DownstreamRun, tmp_path: Path
) -> None:
    run = replace(whole, folder=tmp_path)
    record = json.loads(whole.path.read_text())
    run.path.write_text(json.dumps({**record, "result": None}))
    assert train(run) == [whole.read()]


def test_a_run_is_that_of_the_example(tiny_cgn: SmallCGN, tmp_path: Path) -> None:
    data = make_variant("double_colored", "train", num=64)
    state = torch.random.get_rng_state()
    run = make_run(tmp_path, tiny_cgn, 3)._make_classifier(data, None)
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = MNISTClassifier()
    for ours, theirs in zip(run.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert run.model[4].weight.is_contiguous(memory_format=torch.channels_last)
    stream = run.stream
    assert stream.source.fingerprint.startswith(
        f"bank({tiny_cgn.fingerprint}, size=20, refresh=8, seed=3, "
    )
    assert (stream.seed, stream.mix, stream.proportion.fraction) == (3, "replace", 1.0)
    images, _ = next(iter(stream))
    real = {image.numpy().tobytes() for image in data.images}
    assert not any(image.numpy().tobytes() in real for image in images)


def test_decorrelated_runs_train_on_decorrelated_real_images_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    step = downstream.ClassifierRun.train

    def look(run: downstream.ClassifierRun, *arguments: object, **options: object) -> object:
        run.model.register_forward_pre_hook(
            lambda model, inputs: seen.append(inputs[0].clone()) if model.training else None
        )
        return step(run, *arguments, **options)

    monkeypatch.setattr(downstream.ClassifierRun, "train", look)
    train(make_run(tmp_path, None))
    shown = {image.numpy().tobytes() for image in torch.cat(seen)}
    data = make_variant("double_colored", "train", num=64, decorrelated=True)
    assert shown == {image.numpy().tobytes() for image in data.images}


def test_visible_accuracy_is_of_the_images_with_two_colours(
    tiny_cgn: SmallCGN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = make_variant("double_colored", "test", num=40)
    assert 0 < int((~test.visible).sum()) < 40
    lengths: list[int] = []

    def count(_: object, batches: object) -> float:
        lengths.append(len(batches.dataset))
        images = batches.dataset.tensors[0]
        assert torch.equal(images, test.images[test.visible])
        return 0.125

    monkeypatch.setattr(downstream, "measure_accuracy", count)
    (result,) = train(make_run(tmp_path, tiny_cgn))
    assert lengths == [int(test.visible.sum())]
    assert result.visible_accuracy == 0.125


def test_images_are_made_once_for_runs_that_share_them(
    tiny_cgn: SmallCGN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, bool]] = []

    def note(variant: str, split: str, **options: object) -> object:
        made.append((split, options["decorrelated"]))
        return make_variant(variant, split, **options)

    monkeypatch.setattr(downstream, "make_variant", note)
    config = replace(CONFIG, num_epochs=1)
    runs = [make_run(tmp_path, cgn, s, config=config) for cgn in (tiny_cgn, None) for s in (0, 1)]
    train(*runs)
    assert made == [("train", False), ("test", True), ("train", True)]


def test_a_folder_that_cannot_be_written_is_known_before_images_are_made(
    tiny_cgn: SmallCGN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downstream, "make_variant", lambda *_, **__: pytest.fail("made"))
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(FileExistsError):
        train(make_run(tmp_path / "file", tiny_cgn))


def test_arguments_and_settings_are_checked_when_made(tmp_path: Path) -> None:
    for changes, message in (
        ({"variant": "grey"}, "variant must be one of colored, double_colored, wildlife"),
        ({"trained_on": "../x"}, "small letters, digits and underscores, got '../x'"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
    ):
        with pytest.raises(ArgumentError, match=message):
            make_run(tmp_path, None, **changes)


def test_the_table_has_mean_and_spread_over_seeds() -> None:
    results = [
        DownstreamResult("double_colored", "ours", seed, accuracy, accuracy + 0.05, ())
        for seed, accuracy in ((0, 0.90), (1, 0.92), (5, 0.94))
    ]
    results.append(DownstreamResult("wildlife", "ours", 0, 0.5, 0.5, ()))
    assert downstream_table(results)[1:] == [
        ["double colored", "ours", "92.0 % ± 2.0", "97.0 % ± 2.0", "0, 1, 5"],
        ["wildlife", "ours", "50.0 %", "50.0 %", "0"],
    ]


def test_the_command_trains_what_is_asked_for_and_prints_the_table(
    tiny_cgn: SmallCGN, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(make_tiny_cgn(seed=5).state_dict(), tmp_path / "cgn_colored_mnist.pth")
    torch.save(tiny_cgn.state_dict(), tmp_path / "mine.pth")
    out = tmp_path / "out"

    def run(rows: list[commands.Row]) -> list[str]:
        commands.downstream(
            str(out),
            variants=["colored"],
            rows=rows,
            seeds=[0, 1],
            published=str(tmp_path),
            ours={"colored": str(tmp_path / "mine.pth")},
            training=replace(CONFIG, num_epochs=1),
            table="markdown",
        )
        *table, last = capsys.readouterr().out.splitlines()
        assert last == f"results: {out}, one file for each classifier"
        return table

    lines = run(["decorrelated", "ours", "published"])
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["variant", "trained on", "test accuracy", "of visible images", "seeds"]
    assert [row[1] for row in cells[2:]] == ["decorrelated", "ours", "published"]
    assert cells[2][-1] == "0, 1"
    fingerprints = [
        json.loads((out / f"colored-{row}-seed0.json").read_text())["settings"]["cgn"]
        for row in ("ours", "published", "decorrelated")
    ]
    assert fingerprints == [tiny_cgn.fingerprint, make_tiny_cgn(seed=5).fingerprint, None]
    assert run(["ours"])[2].split() == lines[3].split()


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> list[RealShapeSource]:
    """Notes each source of real shapes; none of them refuses a mask."""
    made: list[RealShapeSource] = []

    def note(*arguments: Any, **options: Any) -> RealShapeSource:
        made.append(RealShapeSource(*arguments, **{**options, "gate": None}))
        return made[-1]

    monkeypatch.setattr(downstream, "RealShapeSource", note)
    return made


def test_real_shapes_come_from_the_masker_that_is_named(
    tiny_cgn: SmallCGN, tmp_path: Path, sources: list[RealShapeSource]
) -> None:
    with isolated_rng(0, torch.device("cpu")):
        masker = UNetMasker(width=4).eval()
    with torch.no_grad():
        masker.head.weight.zero_()
        masker.head.bias.fill_(9.0)
    save_masker(masker, tmp_path / "finder.safetensors")
    torch.save(tiny_cgn.state_dict(), tmp_path / "mine.pth")
    commands.downstream(
        str(tmp_path / "out"),
        variants=["colored"],
        rows=["real_shapes"],
        seeds=[0],
        ours={"colored": str(tmp_path / "mine.pth")},
        maskers={"colored": str(tmp_path / "finder.safetensors")},
        training=replace(CONFIG, num_epochs=1),
    )
    [source] = sources
    settings = json.loads((tmp_path / "out/colored-real_shapes-seed0.json").read_text())["settings"]
    assert settings["masker"] == source.masker.fingerprint
    assert settings["cgn"] == source.textures.cgn.fingerprint == tiny_cgn.fingerprint


def test_real_parts_are_those_of_the_biased_training_images(
    tmp_path: Path, sources: list[RealShapeSource]
) -> None:
    config = replace(CONFIG, num_epochs=1, num_train=100)
    commands.downstream(
        str(tmp_path), variants=["colored"], rows=["real_parts"], seeds=[0, 1], training=config
    )
    source, other = sources
    assert source.textures.cgn is other.textures.cgn  # which takes a minute for all images
    parts, data = source.textures.cgn, make_variant("colored", "train", num=100)
    assert isinstance(parts, Parts)
    colors = parts.texture(parts.draw_noise(10, torch.Generator()), torch.arange(10))
    for y, color in enumerate(colors):
        own = data.images[data.labels == y].amax(dim=(2, 3))
        assert (own - color.amax(dim=(1, 2))).abs().amax(dim=1).min() < 0.01
    record = json.loads((tmp_path / "colored-real_parts-seed0.json").read_text())
    assert record["settings"]["cgn"] is None
    assert record["settings"]["masker"] == source.masker.fingerprint
    assert sum(parts.counts.values()) == 100


def test_the_command_takes_the_textures_of_a_folder_to_wildlife(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[DownstreamRun] = []
    monkeypatch.setattr(commands, "load_textures", lambda folder: f"those of {folder}")
    monkeypatch.setattr(commands, "run_downstream", lambda given, **_: runs.extend(given) or [])
    monkeypatch.setattr(commands, "load_cgn", lambda name, **_: name)
    commands.downstream("out", rows=["ours"], seeds=[0], textures="mine")
    assert {run.variant: (run.cgn, run.textures) for run in runs} == {
        "colored": ("colored-mnist", None),
        "double_colored": ("double-colored-mnist", None),
        "wildlife": ("wildlife-dtd-mnist", "those of mine"),
    }


def test_the_command_names_what_is_missing(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(ArgumentError, match="the row published needs its checkpoints"):
        commands.downstream(out, variants=["colored"], rows=["published"])
    with pytest.raises(FileError, match=r"cgn_colored_mnist.pth' is neither a file"):
        commands.downstream(out, variants=["colored"], rows=["published"], published="nowhere")
    for name in ("ours", "maskers"):
        with pytest.raises(ArgumentError, match=rf"{name} has \['grey'\]: its keys must be of"):
            commands.downstream(out, rows=["decorrelated"], **{name: {"grey": "x"}})
    assert not Path(out).exists()


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt("the same command with --resume goes on")

    monkeypatch.setattr(commands, "run_downstream", press)
    with pytest.raises(KeyboardInterrupt, match=r"^the same command goes on$"):
        commands.downstream(str(tmp_path), variants=["colored"], rows=["decorrelated"])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_of_two_processes_one_trains_a_run_and_the_other_may_train_another(tmp_path: Path) -> None:
    config = DownstreamConfig(num_epochs=1, num_train=32, num_test=20, bank=10)
    cgn = SmallCGN(width=4).freeze()
    first, second = (
        DownstreamRun(tmp_path, "colored", "mine", cgn, seed=seed, config=config) for seed in (0, 1)
    )
    other = FORKS.Process(target=own_file, args=(first.checkpoint,))
    other.start()
    try:
        while not first.checkpoint.exists():
            time.sleep(0.01)
        with pytest.raises(UsageError, match="another process is writing"):
            run_downstream([first], progress=False)
        assert not first.path.exists()
        assert run_downstream([second], progress=False)[0].seed == 1
    finally:
        other.kill()
        other.join()
