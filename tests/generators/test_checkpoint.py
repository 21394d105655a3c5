"""Reading and writing the weights of a CGN, and files that are none."""

from __future__ import annotations

import json
import pickle
import stat
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import make_tiny_cgn
from generator_helpers import draw, make_deep_cgn, require_same
from safetensors.torch import save_file
from torch import nn

from cgn_augment import files as files_module
from cgn_augment import load_cgn
from cgn_augment.errors import (
    ArgumentError,
    CGNError,
    CheckpointError,
    FileError,
    UsageError,
)
from cgn_augment.generators import SmallCGN, bundled_generators, read_metadata, save_cgn
from cgn_augment.generators import checkpoint as checkpoint_module
from cgn_augment.generators.checkpoint import FORMAT


def test_published_checkpoints_say_their_own_sizes_and_survive_the_way_through_safetensors(
    published_paths: dict[str, Path], tmp_path: Path
) -> None:
    sizes = {"num_classes": 10, "noise_dim": 32, "embedding_dim": 10, "width": 32}
    networks = {"shape_network": "published", "texture_network": "published"}
    cgns = [load_cgn(path) for path in published_paths.values()]
    assert all(cgn.config == {**sizes, **networks} for cgn in cgns)
    assert len({cgn.fingerprint for cgn in cgns}) == 3
    assert read_metadata(published_paths["wildlife"]) == {}
    save_cgn(cgns[2], tmp_path / "wildlife.safetensors")
    require_same(cgns[2], load_cgn(tmp_path / "wildlife.safetensors"))


def test_a_file_from_before_there_were_two_networks_is_of_the_published_one(
    tmp_path: Path,
) -> None:
    cgn, path = make_tiny_cgn().freeze(), tmp_path / "old.safetensors"
    networks = ("shape_network", "texture_network")
    config = {name: value for name, value in cgn.config.items() if name not in networks}
    state = {name: value.contiguous() for name, value in cgn.state_dict().items()}
    save_file(state, path, metadata=header(config=json.dumps(config)))
    require_same(cgn, load_cgn(path))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_pickled_state_dict_says_which_sizes_it_has(
    prefix: str, legacy: bool, tmp_path: Path
) -> None:
    cgn = make_tiny_cgn(width=6, num_classes=3, noise_dim=7, embedding_dim=5)
    path = tmp_path / "cgn.pth"
    state = {f"{prefix}{name}": value for name, value in cgn.freeze().state_dict().items()}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    assert zipfile.is_zipfile(path) != legacy
    require_same(cgn, load_cgn(path))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("make", [make_tiny_cgn, make_deep_cgn])
def test_a_saved_cgn_comes_back_whole_frozen_and_in_float32(
    make: Callable[..., SmallCGN], dtype: torch.dtype, tmp_path: Path
) -> None:
    cgn, path = make(width=6, num_classes=3, noise_dim=8).to(dtype), tmp_path / "cgn.safetensors"
    save_cgn(cgn, path)
    assert cgn.training
    assert all(parameter.requires_grad for parameter in cgn.parameters())
    loaded = load_cgn(str(path)).train()
    require_same(cgn.float().freeze(), loaded)  # what the other precision has left
    for factor, values in draw(cgn).items():
        assert torch.equal(draw(loaded)[factor], values)
    assert loaded.frozen
    assert not loaded.training


def test_metadata_is_kept_as_text(tmp_path: Path) -> None:
    path = tmp_path / "cgn.safetensors"
    save_cgn(make_tiny_cgn(), path, recipe="wildlife", seed=3, weights=[0.01, 0.05])
    kept = read_metadata(path)
    assert (kept["recipe"], kept["seed"], kept["weights"]) == ("wildlife", "3", "[0.01, 0.05]")
    assert (kept["format"], kept["architecture"]) == (FORMAT, "small")
    assert json.loads(kept["config"]) == make_tiny_cgn().config


def test_a_saved_cgn_may_be_read_by_others_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "cgn.safetensors"
    path.write_text("what was here before")
    save_cgn(make_tiny_cgn(), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["cgn.safetensors"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert load_cgn(path).width == 4


def test_what_cannot_be_saved_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"saved as \.safetensors, got 'cgn\.pth'"):
        save_cgn(make_tiny_cgn(), tmp_path / "cgn.pth")
    with pytest.raises(ArgumentError, match=r"metadata must not have .*\[\'config\'\], which"):
        save_cgn(make_tiny_cgn(), tmp_path / "cgn.safetensors", config="mine")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save_cgn(make_tiny_cgn(), tmp_path / "missing" / "cgn.safetensors")
    (tmp_path / "file").write_text("a file, not a folder")
    with pytest.raises(NotADirectoryError):
        save_cgn(make_tiny_cgn(), tmp_path / "file" / "cgn.safetensors")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(state: object, filename: str, metadata: object) -> None:
        Path(filename).write_bytes(b"half of it")
        raise OSError("no space left on device")

    path = tmp_path / "cgn.safetensors"
    save_cgn(make_tiny_cgn(), path)
    before = path.read_bytes()
    monkeypatch.setattr(files_module, "save_file", full)
    with pytest.raises(OSError, match="no space left"):
        save_cgn(make_tiny_cgn(1), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["cgn.safetensors"]
    assert path.read_bytes() == before


def test_a_bundled_generator_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cgn = make_tiny_cgn().freeze()
    save_cgn(cgn, tmp_path / "second.safetensors", recipe="tiny")
    save_cgn(make_tiny_cgn(1), tmp_path / "first.safetensors")
    monkeypatch.setattr(checkpoint_module, "WEIGHTS", tmp_path)
    assert bundled_generators() == ["first", "second"]
    require_same(cgn, load_cgn("second"))
    assert read_metadata("second")["recipe"] == "tiny"
    with pytest.raises(FileError, match=r"'third' is neither .* generator \(first, second\): pass"):
        load_cgn("third")


# Files that are no checkpoint


class RunsCode:
    """Creates a file when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.witness,)


def state_of(path: Path) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in make_tiny_cgn().state_dict().items()}


def with_nan(path: Path) -> None:
    state = state_of(path)
    state["f_text1.0.bias"][7] = torch.nan
    torch.save(state, path)


def with_infinity(path: Path) -> None:
    state = state_of(path)
    state["f_shape.5.running_var"][0] = torch.inf
    save_file(state, path, metadata=header())


def without_some(path: Path) -> None:
    state = state_of(path)
    del state["f_text2.10.bias"], state["f_text1.0.weight"]
    torch.save({**state, "discriminator.weight": torch.zeros(2)}, path)


def with_other_shapes(path: Path) -> None:
    state = state_of(path)
    state["f_text1.0.bias"] = torch.zeros(7)
    torch.save(state, path)


def truncated_pth(path: Path) -> None:
    torch.save(state_of(path), path)
    path.write_bytes(path.read_bytes()[:-3000])


def truncated_legacy(path: Path) -> None:
    torch.save(state_of(path), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-3000])


def truncated_safetensors(path: Path) -> None:
    save_cgn(make_tiny_cgn(), path)
    path.write_bytes(path.read_bytes()[:-3000])


def scripted(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("constants.pkl", "version", "data.pkl"):
            archive.writestr(f"archive/{name}", "3")


def header(**changes: str) -> dict[str, str]:
    return {
        "format": FORMAT,
        "architecture": "small",
        "config": json.dumps(make_tiny_cgn().config),
        **changes,
    }


def safetensors_with(**changes: str) -> Callable[[Path], None]:
    return lambda path: save_file(state_of(path), path, metadata=header(**changes))


def safetensors_without_config(path: Path) -> None:
    save_file(state_of(path), path, metadata={"format": FORMAT, "architecture": "small"})


def saving(value: object) -> Callable[[Path], None]:
    return lambda path: torch.save(value, path)


def config(text: str) -> Callable[[Path], None]:
    return safetensors_with(config=text)


CUT_OFF = "cannot be read; it is cut off or not a (checkpoint|CGN): copy it again"
NO_CODE = "holds more than weights and would run code .* it was not read"
BAD_FILES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "truncated pth": (".pth", truncated_pth, CUT_OFF),
    "truncated old pth": (".pth", truncated_legacy, CUT_OFF),
    "truncated safetensors": (".safetensors", truncated_safetensors, CUT_OFF),
    "empty pth": (".pth", Path.touch, CUT_OFF),
    "empty safetensors": (".safetensors", Path.touch, CUT_OFF),
    "web page": (".pth", lambda path: path.write_text("<!doctype html><html>no"), CUT_OFF),
    "zip": (".pth", lambda path: zipfile.ZipFile(path, "w").close(), CUT_OFF),
    "pth in disguise": (".safetensors", lambda path: torch.save(state_of(path), path), CUT_OFF),
    "other network": (
        ".pth",
        saving(nn.Linear(3, 3).state_dict()),
        r"not a small CGN: .*label_emb\.weight.* it has \['bias', 'weight'\]",
    ),
    "empty state dict": (".pth", saving({}), "not a small CGN: its tensors do not say"),
    "missing and unknown names": (
        ".pth",
        without_some,
        r'Missing key.* "f_text1\.0\.weight", "f_text2\.10\.bias"\. Unexpected .*"discr',
    ),
    "other shapes": (
        ".pth",
        with_other_shapes,
        r"size mismatch for f_text1\.0\.bias: .*\[7\].* the shape in current model is .*\[512\]",
    ),
    "whole module": (".pth", saving(nn.Linear(2, 2)), NO_CODE),
    "TorchScript": (".pth", scripted, NO_CODE),
    "training checkpoint": (
        ".pth",
        saving({"model": {"bias": torch.zeros(3)}, "epoch": 3}),
        r"not a state dict .* save model\.state_dict\(\) alone",
    ),
    "one tensor": (".pth", saving(torch.zeros(3)), "not a state dict .* but a Tensor"),
    "names that are no text": (".pth", saving({3: torch.zeros(3)}), "not a state dict"),
    "NaN": (".pth", with_nan, r"f_text1\.0\.bias holds NaN or infinity; its training diverged"),
    "infinity": (".safetensors", with_infinity, r"f_shape\.5\.running_var holds NaN or infinity"),
    "whole numbers": (
        ".pth",
        lambda path: torch.save({k: v.long() for k, v in state_of(path).items()}, path),
        "holds torch.int64, which is no weight of a CGN",
    ),
    "no format": (
        ".safetensors",
        lambda path: save_file(state_of(path), path),
        f"has the format None and a CGN has '{FORMAT}': write it with save_cgn",
    ),
    "other architecture": (
        ".safetensors",
        safetensors_with(architecture="biggan"),
        "holds the architecture 'biggan'; this version knows 'small'",
    ),
    "no config": (".safetensors", safetensors_without_config, "no readable config in its metadata"),
    "config that is no JSON": (".safetensors", config("{width: 4"), "no readable config"),
    "config that is a list": (".safetensors", config("[4]"), r"no network: \[4\]"),
    "unknown setting": (".safetensors", config('{"depth": 4}'), "no network: .*'depth'"),
    "unknown network": (".safetensors", config('{"shape_network": "x"}'), "no network: .*'x'"),
    "impossible size": (".safetensors", config('{"width": -4}'), "no network: .*-4"),
    "size that is text": (".safetensors", config('{"width": "4"}'), "no network: .*'4'"),
    "other size": (".safetensors", config('{"width": 5}'), "size mismatch for "),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_file_that_is_no_checkpoint_is_one_clear_error(kind: str, tmp_path: Path) -> None:
    suffix, write, message = BAD_FILES[kind]
    path = tmp_path / f"bad{suffix}"
    write(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_cgn(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's advice to run the code after all


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pickle_that_wants_to_run_code_does_not(
    legacy: bool, wrapped: bool, tmp_path: Path
) -> None:
    witness, path = tmp_path / "code was run", tmp_path / "cgn.pth"
    wants: object = RunsCode(witness)
    if wrapped:
        wants = OrderedDict({**state_of(path), "extra": wants})
    torch.save(wants, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=NO_CODE) as caught:
        load_cgn(path)
    assert "\n" not in str(caught.value)
    assert not witness.exists()
    torch.load(path, weights_only=False)
    assert witness.exists()  # the file was really able to


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_that_wants_to_run_code_does_not(protocol: int, tmp_path: Path) -> None:
    # From protocol 3 on torch knows the operations of a pickle no more.
    message = NO_CODE if protocol < 3 else f"({NO_CODE})|({CUT_OFF})"
    witness, path = tmp_path / "code was run", tmp_path / "cgn.pth"
    path.write_bytes(pickle.dumps(RunsCode(witness), protocol))
    with pytest.raises(CheckpointError, match=message):
        load_cgn(path)
    assert not witness.exists()
    pickle.loads(path.read_bytes())
    assert witness.exists()


def test_a_missing_file_and_a_folder_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(
        FileError, match=r"nothing\.pth' is neither a file nor the name of a bundled"
    ) as caught:
        load_cgn(tmp_path / "nothing.pth")
    assert isinstance(caught.value, (CGNError, OSError))
    with pytest.raises(FileError, match=f"{tmp_path}' is a folder, not a file, nor"):
        load_cgn(tmp_path)
    with pytest.raises(FileError, match="is neither a file"):
        read_metadata(tmp_path / "nothing.safetensors")


def test_metadata_of_a_damaged_file_is_a_clear_error(tmp_path: Path) -> None:
    truncated_safetensors(tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError, match=CUT_OFF):
        read_metadata(tmp_path / "bad.safetensors")


# Devices


@pytest.mark.parametrize(
    ("device", "num_gpus", "message"),
    [
        ("cuda:1", 0, r"'cuda:1' was asked for and torch sees no GPU here"),
        ("cuda:1", 1, "there is no cuda:1: torch sees 1 GPU"),
        ("gpu", 0, "'gpu' is not the name of a device"),
    ],
)
def test_a_device_that_is_not_there_is_a_clear_error(
    device: str, num_gpus: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    with pytest.raises(UsageError, match=message) as caught:
        load_cgn(tmp_path / "nothing.pth", device=device)  # the device is checked first
    assert "\n" not in str(caught.value)
