"""Reading and writing the weights of a CGN, and files that are none."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bar_helpers import watch_bars
from conftest import make_tiny_cgn
from generator_helpers import draw, make_deep_cgn, require_same
from safetensors.torch import save_file
from torch import nn

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
from cgn_augment.generators import tensors as tensors_module
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
    config = {name: value for name, value in cgn.config.items() if "network" not in name}
    tensors(config=json.dumps(config))(path)
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
    assert load_cgn(path).width == 4
    with pytest.raises(ArgumentError, match=r"saved as \.safetensors, got 'cgn\.pth'"):
        save_cgn(make_tiny_cgn(), tmp_path / "cgn.pth")
    with pytest.raises(ArgumentError, match=r"metadata must not have .*\[\'config\'\], which"):
        save_cgn(make_tiny_cgn(), path, config="mine")
    with pytest.raises(FileNotFoundError):
        save_cgn(make_tiny_cgn(), tmp_path / "missing" / "cgn.safetensors")
    assert [entry.name for entry in tmp_path.iterdir()] == ["cgn.safetensors"]


def test_a_write_that_fails_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(state: object, filename: str, metadata: object) -> None:
        Path(filename).write_bytes(b"half of it")
        raise OSError("no space left on device")

    path = tmp_path / "cgn.safetensors"
    save_cgn(make_tiny_cgn(), path)
    before = path.read_bytes()
    monkeypatch.setattr(tensors_module, "save_file", full)
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


TINY = make_tiny_cgn()
STATE = TINY.state_dict()
HEADER = {"format": FORMAT, "architecture": "small", "config": json.dumps(TINY.config)}


def saving(value: object, legacy: bool = False, cut: int | None = None) -> Callable[[Path], None]:
    """Writes a pickle, or what is left of it after a cut."""

    def write(path: Path) -> None:
        torch.save(value, path, _use_new_zipfile_serialization=not legacy)
        path.write_bytes(path.read_bytes()[:cut])

    return write


def tensors(
    state: dict[str, torch.Tensor] = STATE, cut: int | None = None, **header: str
) -> Callable[[Path], None]:
    """Writes safetensors with what a CGN's header says, or something else; or a part of them."""

    def write(path: Path) -> None:
        texts = {name: text for name, text in {**HEADER, **header}.items() if text}
        save_file(state, path, metadata=texts)
        path.write_bytes(path.read_bytes()[:cut])

    return write


def scripted(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("constants.pkl", "version", "data.pkl"):
            archive.writestr(f"archive/{name}", "3")


def zipped(path: Path) -> None:
    """A checkpoint whose records are compressed, as torch writes none."""
    torch.save({"f": torch.zeros(10**7)}, path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def compressed_rows() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ones(3, 3).to_sparse_csr()


def ragged() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


SHARED_WEIGHT = torch.zeros(10**6)
LESS = {k: v for k, v in STATE.items() if k not in ("f_text2.10.bias", "f_text1.0.weight")}
CUT_OFF = "cannot be read; it is cut off or not a (checkpoint|CGN): copy it again"
NO_CODE = "holds more than weights and would run code .* it was not read"
BAD_FILES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "truncated pth": (".pth", saving(STATE, cut=-3000), CUT_OFF),
    "truncated old pth": (".pth", saving(STATE, legacy=True, cut=-3000), CUT_OFF),
    "truncated safetensors": (".safetensors", tensors(cut=-3000), CUT_OFF),
    "empty pth": (".pth", Path.touch, CUT_OFF),
    "empty safetensors": (".safetensors", Path.touch, CUT_OFF),
    "web page": (".pth", lambda path: path.write_text("<!doctype html><html>no"), CUT_OFF),
    "zip": (".pth", lambda path: zipfile.ZipFile(path, "w").close(), CUT_OFF),
    "pth in disguise": (".safetensors", saving(STATE), CUT_OFF),
    "other network": (
        ".pth",
        saving(nn.Linear(3, 3).state_dict()),
        r"not a small CGN: .*label_emb\.weight.* it has \['bias', 'weight'\]",
    ),
    "empty state dict": (".pth", saving({}), "not a small CGN: its tensors do not say"),
    "missing and unknown names": (
        ".pth",
        saving({**LESS, "discriminator.weight": torch.zeros(2)}),
        r'Missing key.* "f_text1\.0\.weight", "f_text2\.10\.bias"\. Unexpected .*"discr',
    ),
    "other shapes": (
        ".pth",
        saving({**STATE, "f_text1.0.bias": torch.zeros(7)}),
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
    "NaN": (".pth", saving({"f": torch.tensor(torch.nan)}), "f holds NaN .* training diverged"),
    "infinity": (".safetensors", tensors({"f": torch.tensor(torch.inf)}), "f holds NaN or inf"),
    "whole numbers": (
        ".pth",
        saving({name: value.long() for name, value in STATE.items()}),
        "holds torch.int64, which is no weight of a CGN",
    ),
    "sparse": (".pth", saving({"f": torch.ones(3, 3).to_sparse()}), "f is a sparse or nested"),
    "CSR": (".pth", saving({"f": compressed_rows()}), "f is a sparse or nested tensor"),
    "nested": (".pth", saving({"f": ragged()}), "f is a sparse or nested tensor|cannot be read"),
    "float8": (
        ".pth",
        saving({"f": torch.zeros(3).to(torch.float8_e4m3fn)}),
        r"f is of the type torch\.float8_e4m3fn: save plain tensors",
    ),
    "float8 safetensors": (
        ".safetensors",
        tensors({"f": torch.zeros(3).to(torch.float8_e4m3fn)}),
        r"f is of the type torch\.float8_e4m3fn",
    ),
    "complex": (".pth", saving({"f": torch.zeros(3) * 1j}), r"f is of the type torch\.complex64"),
    "meta": (".pth", saving({"f": torch.zeros(3, device="meta")}), "f is a tensor without values"),
    "expanded": (
        ".pth",
        saving({"label_emb.weight": torch.zeros(1).expand(10**6, 10**6)}),
        r"label_emb\.weight is expanded to more than there is in the file",
    ),
    "many that share": (
        ".pth",
        saving({f"f{i}": SHARED_WEIGHT for i in range(400)}),
        "claims 1600000000 bytes of weights",
    ),
    "compressed": (".pth", zipped, "unfolds to more than there is in the file"),
    "nested JSON": (".safetensors", tensors(config="[" * 100_000), "no readable config"),
    "no format": (
        ".safetensors",
        tensors(format=""),
        f"has the format None and a CGN has '{FORMAT}': write it with save_cgn",
    ),
    "other architecture": (
        ".safetensors",
        tensors(architecture="biggan"),
        "holds the architecture 'biggan'; this version knows 'small'",
    ),
    "no config": (".safetensors", tensors(config=""), "no readable config in its metadata"),
    "config that is no JSON": (".safetensors", tensors(config="{width: 4"), "no readable config"),
    "config that is a list": (".safetensors", tensors(config="[4]"), r"no network: \[4\]"),
    "unknown setting": (".safetensors", tensors(config='{"depth": 4}'), "no network: .*'depth'"),
    "unknown network": (
        ".safetensors",
        tensors(config='{"shape_network": "x"}'),
        "no network: .*'x'",
    ),
    "impossible size": (".safetensors", tensors(config='{"width": -4}'), "no network: .*-4"),
    "size that is text": (".safetensors", tensors(config='{"width": "4"}'), "no network: .*'4'"),
    "other size": (".safetensors", tensors(config='{"width": 5}'), "size mismatch for "),
    "other width": (".safetensors", tensors(config='{"width": 30000}'), "size mismatch for "),
    "other ImageNet CGN": (
        ".safetensors",
        tensors(architecture="imagenet", config='{"unet_width": 30000}'),
        "is of another network",
    ),
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


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_what_wrappers_put_before_names_is_taken_off(prefix: str, tmp_path: Path) -> None:
    cgn = make_tiny_cgn()
    torch.save({f"{prefix}{k}": v for k, v in cgn.state_dict().items()}, tmp_path / "cgn.pth")
    require_same(cgn.freeze(), load_cgn(tmp_path / "cgn.pth"))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pickle_that_wants_to_run_code_does_not(
    legacy: bool, wrapped: bool, tmp_path: Path
) -> None:
    witness, path = tmp_path / "code was run", tmp_path / "cgn.pth"
    wants: object = RunsCode(witness)
    if wrapped:
        wants = OrderedDict({**STATE, "extra": wants})
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


def test_a_missing_file_and_a_folder_are_clear_errors_for_metadata_too(tmp_path: Path) -> None:
    with pytest.raises(
        FileError, match=r"nothing\.pth' is neither a file nor the name of a bundled"
    ) as caught:
        load_cgn(tmp_path / "nothing.pth")
    assert isinstance(caught.value, (CGNError, OSError))
    with pytest.raises(FileError, match=f"{tmp_path}' is a folder, not a file, nor"):
        load_cgn(tmp_path)
    with pytest.raises(FileError, match="is neither a file"):
        read_metadata(tmp_path / "nothing.safetensors")
    tensors(cut=-3000)(tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError, match=CUT_OFF):
        read_metadata(tmp_path / "bad.safetensors")


# Devices


@pytest.mark.parametrize(
    ("device", "num_gpus", "message"),
    [
        ("cuda:1", 0, r"'cuda:1' was asked for and torch sees no GPU here"),
        ("cuda:1", 1, "there is no cuda:1: torch sees 1 GPU"),
        ("gpu", 0, "'gpu' is not the name of a device"),
        ("meta", 0, "'meta' holds no images: pass device='cpu'"),
        ("xpu", 0, "'xpu' cannot be used by this torch"),
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


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_bars_count_the_bytes_of_weights(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"mine{suffix}"
    cgn = SmallCGN()
    if suffix == ".pth":
        torch.save(cgn.state_dict(), path)
    else:
        save_cgn(cgn, path)
    where = "cgn_augment.generators"
    bars = watch_bars(monkeypatch, f"{where}.tensors", f"{where}.fingerprint")
    load_cgn(path)
    num = sum(value.numel() * value.element_size() for value in cgn.state_dict().values())
    assert [bar.desc for bar in bars] == [f"reading {path.name}", "hashing weights"]
    assert [bar.n for bar in bars] == [bar.total for bar in bars] == [num, num]
