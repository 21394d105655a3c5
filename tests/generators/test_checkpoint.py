"""The small CGN, and the reading and writing of its checkpoints."""

from __future__ import annotations

import copy
import json
import pickle
import stat
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_tiny_cgn
from published_layers import use_published_layers
from safetensors.torch import save_file
from torch import nn

from cgn_augment import Mechanisms, load_cgn
from cgn_augment import files as files_module
from cgn_augment.errors import (
    ArgumentError,
    ArgumentTypeError,
    CGNError,
    CheckpointError,
    FileError,
    UsageError,
)
from cgn_augment.functional import isolated_rng, roll_images
from cgn_augment.generators import SmallCGN, bundled_generators, read_metadata, save_cgn
from cgn_augment.generators import checkpoint as checkpoint_module
from cgn_augment.generators.checkpoint import FORMAT
from cgn_augment.generators.layout import without_memory
from cgn_augment.generators.upsampling import UpConv2d

CPU = torch.device("cpu")
FACTORS = ("shape", "texture", "background")
VARIANT_NAMES = ("colored", "double_colored", "wildlife")


def make_cgn(seed: int = 0, **config: int) -> SmallCGN:
    with isolated_rng(seed, CPU):
        return SmallCGN(**{"width": 4, **config})


def draw(cgn: SmallCGN, num: int = 6) -> dict[str, torch.Tensor]:
    """What the three mechanisms make of the same noise and classes."""
    noise = cgn.draw_noise(num, torch.Generator().manual_seed(1))
    y = torch.arange(num) % cgn.num_classes
    return {factor: getattr(cgn, factor)(noise, y) for factor in FACTORS}


def require_same(first: SmallCGN, second: SmallCGN) -> None:
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert first.config == second.config
    assert first.fingerprint == second.fingerprint


# The published checkpoints


@pytest.mark.parametrize("variant", VARIANT_NAMES)
def test_published_checkpoints_draw_what_the_published_code_draws(
    variant: str, published_paths: dict[str, Path], golden_paths: dict[str, Path]
) -> None:
    cgn = load_cgn(published_paths[variant])
    with np.load(golden_paths[variant]) as golden:
        noise, labels = (torch.from_numpy(golden[name]) for name in ("noise", "labels"))
        expected = {
            "shape": golden["mask"],
            "texture": golden["foreground_uncropped"],
            "background": golden["background_uncropped"],
        }
    for factor, values in expected.items():
        ours = getattr(cgn, factor)(noise, labels).numpy()
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, values, rtol=0, atol=1e-5)


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


# The network


def test_factors_have_the_documented_form(tiny_cgn: SmallCGN) -> None:
    drawn = draw(tiny_cgn)
    assert drawn["shape"].shape == (6, 1, 32, 32)
    assert drawn["texture"].shape == drawn["background"].shape == (6, 3, 32, 32)
    assert all(values.dtype == torch.float32 for values in drawn.values())
    limits = torch.tensor([1e-4, 0.9999])
    assert drawn["shape"].min() == limits[0]
    assert drawn["shape"].max() == limits[1]
    assert drawn["texture"].abs().max() <= 1
    assert drawn["background"].abs().max() <= 1
    assert isinstance(tiny_cgn, Mechanisms)


def test_each_mechanism_runs_alone() -> None:
    cgn, ran = make_cgn().freeze(), []
    for name in ("f_shape", "f_text1", "f_text2"):
        getattr(cgn, name).register_forward_hook(lambda *_, name=name: ran.append(name))
    draw(cgn, 2)
    assert ran == ["f_shape", "f_text1", "f_text2"]


@pytest.mark.parametrize("factor", FACTORS)
def test_both_noise_and_class_decide_a_factor(factor: str, tiny_cgn: SmallCGN) -> None:
    first, second = tiny_cgn.draw_noise(2, torch.Generator().manual_seed(0))[:, None]
    mechanism = getattr(tiny_cgn, factor)
    base = mechanism(first, torch.tensor([3]))
    assert torch.equal(base, mechanism(first, torch.tensor([3])))
    assert not torch.equal(base, mechanism(second, torch.tensor([3])))
    assert not torch.equal(base, mechanism(first, torch.tensor([4])))


def test_an_image_does_not_depend_on_its_batch(tiny_cgn: SmallCGN) -> None:
    noise, y = tiny_cgn.draw_noise(5, torch.Generator().manual_seed(0)), torch.arange(5)
    for factor in FACTORS:
        mechanism = getattr(tiny_cgn, factor)
        torch.testing.assert_close(mechanism(noise, y)[2:3], mechanism(noise[2:3], y[2:3]))
        assert mechanism(noise[:0], y[:0]).shape[2:] == (32, 32)


def test_a_frozen_cgn_stays_in_eval_without_gradients() -> None:
    cgn = make_cgn()
    assert cgn.training
    assert not cgn.frozen
    assert cgn.freeze() is cgn
    assert cgn.frozen
    nn.ModuleDict({"all of it": cgn}).train()
    cgn.train()
    assert not any(module.training for module in cgn.modules())
    assert not any(parameter.requires_grad for parameter in cgn.parameters())
    before = {name: value.clone() for name, value in cgn.state_dict().items()}
    assert not any(values.requires_grad for values in draw(cgn).values())
    assert all(torch.equal(value, before[name]) for name, value in cgn.state_dict().items())


def test_a_cgn_in_training_trains() -> None:
    cgn = make_cgn()
    cgn.eval()
    cgn.train()
    assert all(module.training for module in cgn.modules())
    draw(cgn)["texture"].mean().backward()
    assert cgn.label_emb.weight.grad is not None
    assert cgn.f_shape[0].weight.grad is None


def test_the_fingerprint_is_of_the_weights_alone() -> None:
    first, again, other = make_cgn(0), make_cgn(0), make_cgn(1)
    assert first.fingerprint == again.fingerprint == first.freeze().fingerprint
    assert first.fingerprint != other.fingerprint
    assert len(first.fingerprint) == 12
    with torch.no_grad():
        again.f_text2[-2].running_mean[1] += 1e-3
    assert again.fingerprint != first.fingerprint


def test_noise_follows_the_generator_and_is_standard_normal(tiny_cgn: SmallCGN) -> None:
    with isolated_rng(0, CPU):
        before = torch.get_rng_state()
        noise = tiny_cgn.draw_noise(1000, torch.Generator().manual_seed(4))
        assert torch.equal(torch.get_rng_state(), before)
    assert noise.shape == (1000, 32)
    assert noise.dtype == torch.float32
    assert noise.mean().item() == pytest.approx(0, abs=0.03)
    assert noise.std().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(noise, torch.randn(1000, 32, generator=torch.Generator().manual_seed(4)))


def test_noise_is_drawn_on_the_cpu_for_every_device() -> None:
    with without_memory():
        elsewhere = SmallCGN(width=4)
    generator, on_cpu = (torch.Generator().manual_seed(4) for _ in range(2))
    assert elsewhere.draw_noise(10, generator).device.type == "meta"
    make_cgn().draw_noise(10, on_cpu)
    assert torch.equal(generator.get_state(), on_cpu.get_state())


@pytest.mark.gpu
def test_noise_and_factors_are_those_of_the_cpu_on_a_gpu() -> None:
    cgn, other = make_cgn().freeze(), make_cgn().freeze().to("cuda")
    noise = cgn.draw_noise(10, torch.Generator().manual_seed(4))
    assert torch.equal(other.draw_noise(10, torch.Generator().manual_seed(4)).cpu(), noise)
    for factor, values in draw(cgn).items():
        torch.testing.assert_close(draw(other)[factor].cpu(), values, rtol=1e-3, atol=1e-3)


def test_shuffling_is_a_crop_from_two_by_two_tiles(
    tiny_cgn: SmallCGN, generator: torch.Generator
) -> None:
    images = torch.rand(300, 3, 32, 32, generator=generator)
    shuffled = tiny_cgn.shuffle(images, torch.Generator().manual_seed(6))
    again = tiny_cgn.shuffle(images, torch.Generator().manual_seed(6))
    offsets = torch.randint(33, (300, 2), generator=torch.Generator().manual_seed(6))
    assert torch.equal(shuffled, again)
    assert torch.equal(shuffled, roll_images(images, offsets))
    assert len(offsets.unique(dim=0)) > 200  # each image moves by its own offset
    assert torch.equal(shuffled.flatten(2).sort().values, images.flatten(2).sort().values)


@pytest.mark.parametrize(
    ("noise", "y", "message"),
    [
        (torch.zeros(3, 31), torch.arange(3), r"noise must .* \(N, 32\), got \(3, 31\)"),
        (torch.zeros(3, 32), torch.arange(2), r"each of the 3 noise vectors, .* shape \(2,\)"),
        (torch.zeros(2, 32), torch.tensor([0, 10]), "y must hold classes of 0 to 9, got 0 to 10"),
    ],
)
@pytest.mark.parametrize("factor", FACTORS)
def test_noise_and_classes_of_another_form_are_errors(
    factor: str, noise: torch.Tensor, y: torch.Tensor, message: str, tiny_cgn: SmallCGN
) -> None:
    with pytest.raises(ArgumentError, match=message):
        getattr(tiny_cgn, factor)(noise, y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_classes_that_are_no_integers_are_an_error(dtype: torch.dtype, tiny_cgn: SmallCGN) -> None:
    with pytest.raises(ArgumentTypeError, match=f"y must hold integer classes, got {dtype}"):
        tiny_cgn.shape(torch.zeros(2, 32), torch.ones(2, dtype=dtype))


def test_classes_of_every_integer_type_are_taken(tiny_cgn: SmallCGN) -> None:
    noise = tiny_cgn.draw_noise(3, torch.Generator())
    expected = tiny_cgn.texture(noise, torch.arange(3))
    for dtype in (torch.uint8, torch.int32):
        assert torch.equal(tiny_cgn.texture(noise, torch.arange(3, dtype=dtype)), expected)


# The deep mechanisms


def make_deep(seed: int = 0, **config: int) -> SmallCGN:
    """A deep CGN whose flow and batch statistics do something."""
    cgn = make_cgn(seed, **{"shape_network": "deep", "texture_network": "deep", **config})
    with isolated_rng(seed, CPU), torch.no_grad():
        for mechanism in (cgn.f_shape, cgn.f_text1, cgn.f_text2):
            for layer in mechanism[0].layers:
                nn.init.normal_(layer[-1].weight, std=0.1)
        draw(cgn, 64)
    return cgn


def test_deep_factors_have_the_documented_form() -> None:
    cgn = make_deep().freeze()
    drawn = draw(cgn)
    assert drawn["shape"].shape == (6, 1, 32, 32)
    assert drawn["texture"].shape == drawn["background"].shape == (6, 3, 32, 32)
    assert all(values.dtype == torch.float32 for values in drawn.values())
    assert 1e-4 <= drawn["shape"].min() < drawn["shape"].max() <= 0.9999
    assert isinstance(cgn, Mechanisms)
    noise = cgn.draw_noise(2, torch.Generator().manual_seed(0))
    masks = [cgn.shape(noise[:1], torch.tensor([3])), cgn.shape(noise[:1], torch.tensor([4]))]
    assert not torch.equal(*masks)
    assert not torch.equal(masks[0], cgn.shape(noise[1:], torch.tensor([3])))
    torch.testing.assert_close(cgn.shape(noise, torch.tensor([4, 3]))[:1], masks[1])


def test_a_deep_mask_reaches_the_bounds_and_no_further() -> None:
    cgn = make_deep()
    with torch.no_grad():
        cgn.f_shape[-2].weight.mul_(1e4)
    mask = draw(cgn.freeze(), 20)["shape"]
    assert mask.min().item() == pytest.approx(1e-4)
    assert mask.max().item() == pytest.approx(0.9999)


def test_the_deep_mechanisms_have_the_documented_sizes() -> None:
    for part, expected in (
        ("f_shape", [0.9, 0.2]),
        ("f_text1", [1.4, 0.2]),
        ("f_text2", [1.4, 0.2]),
    ):
        networks = [
            getattr(SmallCGN(shape_network=name, texture_network=name), part)
            for name in ("deep", "published")
        ]
        sizes = [sum(p.numel() for p in network.parameters()) / 1e6 for network in networks]
        assert [round(size, 1) for size in sizes] == expected


def test_deep_textures_stay_where_they_are() -> None:
    images = torch.rand(4, 3, 32, 32)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(make_deep().shuffle(images, generator), images)
    moved = make_cgn().shuffle(images, generator)
    assert not torch.equal(moved, images)
    assert torch.equal(moved.flatten(2).sort().values, images.flatten(2).sort().values)


@pytest.mark.parametrize("half", [False, True])
def test_a_saved_deep_cgn_comes_back_whole(half: bool, tmp_path: Path) -> None:
    config = {"width": 6, "num_classes": 3, "noise_dim": 8}
    cgn, path = make_deep(**config), tmp_path / "cgn.safetensors"
    save_cgn(cgn.half() if half else cgn, path)
    cgn = cgn.float()  # of what half precision has left
    loaded = load_cgn(path)
    require_same(cgn.freeze(), loaded)
    assert loaded.config["shape_network"] == "deep"
    for factor, values in draw(cgn, 3).items():
        assert torch.equal(draw(loaded, 3)[factor], values)


def test_a_frozen_deep_cgn_stays_as_it_is_and_is_channels_last() -> None:
    cgn = make_deep()
    masks = draw(cgn.eval())["shape"]
    assert cgn.freeze().frozen
    nn.ModuleDict({"all of it": cgn}).train()
    assert not any(module.training for module in cgn.modules())
    before = {name: value.clone() for name, value in cgn.state_dict().items()}
    torch.testing.assert_close(draw(cgn)["shape"], masks.detach())
    assert all(torch.equal(value, before[name]) for name, value in cgn.state_dict().items())
    kernels = [part.weight for part in cgn.modules() if isinstance(part, nn.ConvTranspose2d)]
    assert len(kernels) == 3  # UpConv2d is a Conv2d
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in kernels)


@pytest.mark.parametrize("name", ["shape_network", "texture_network"])
def test_there_is_no_other_network(name: str) -> None:
    with pytest.raises(ArgumentError, match=f"{name} must be one of published, deep, got 'deeper'"):
        SmallCGN(**{name: "deeper"})


def test_an_odd_noise_is_for_the_published_network_alone() -> None:
    make_cgn(noise_dim=7)
    with pytest.raises(ArgumentError, match="noise_dim must be even"):
        make_cgn(noise_dim=7, shape_network="deep")


def test_a_file_from_before_there_were_two_networks_is_of_the_published_one(
    tmp_path: Path,
) -> None:
    cgn, path = make_cgn().freeze(), tmp_path / "old.safetensors"
    networks = ("shape_network", "texture_network")
    config = {name: value for name, value in cgn.config.items() if name not in networks}
    state = {name: value.contiguous() for name, value in cgn.state_dict().items()}
    save_file(state, path, metadata=header(config=json.dumps(config)))
    require_same(cgn, load_cgn(path))


# Reading and writing


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_pickled_state_dict_says_which_sizes_it_has(
    prefix: str, legacy: bool, tmp_path: Path
) -> None:
    cgn, path = make_cgn(width=6, num_classes=3, noise_dim=7, embedding_dim=5), tmp_path / "c.pth"
    state = {f"{prefix}{name}": value for name, value in cgn.freeze().state_dict().items()}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    assert zipfile.is_zipfile(path) != legacy
    require_same(cgn, load_cgn(path))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    cgn = make_cgn().freeze()
    torch.save(make_cgn().to(dtype).state_dict(), tmp_path / "cgn.pth")
    loaded = load_cgn(tmp_path / "cgn.pth")
    for name, value in loaded.state_dict().items():
        assert value.dtype == cgn.state_dict()[name].dtype
        torch.testing.assert_close(value, cgn.state_dict()[name], rtol=1e-2, atol=1e-3)
    assert draw(loaded)["shape"].dtype == torch.float32


def test_a_saved_cgn_comes_back_whole_and_frozen(tmp_path: Path) -> None:
    cgn = make_cgn(width=6, num_classes=3, noise_dim=7, embedding_dim=5)
    path = tmp_path / "cgn.safetensors"
    save_cgn(cgn, path)
    assert cgn.training
    assert all(parameter.requires_grad for parameter in cgn.parameters())
    loaded = load_cgn(str(path)).train()
    require_same(cgn, loaded)
    for factor, values in draw(cgn.freeze()).items():
        assert torch.equal(draw(loaded)[factor], values)
    assert loaded.frozen
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_metadata_is_kept_as_text(tmp_path: Path) -> None:
    path = tmp_path / "cgn.safetensors"
    save_cgn(make_cgn(), path, recipe="wildlife", seed=3, weights=[0.01, 0.05])
    kept = read_metadata(path)
    assert (kept["recipe"], kept["seed"], kept["weights"]) == ("wildlife", "3", "[0.01, 0.05]")
    assert (kept["format"], kept["architecture"]) == (FORMAT, "small")
    assert json.loads(kept["config"]) == make_cgn().config


def test_a_saved_cgn_may_be_read_by_others_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "cgn.safetensors"
    path.write_text("what was here before")
    save_cgn(make_cgn(), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["cgn.safetensors"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert load_cgn(path).width == 4


def test_what_cannot_be_saved_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"saved as \.safetensors, got 'cgn\.pth'"):
        save_cgn(make_cgn(), tmp_path / "cgn.pth")
    with pytest.raises(ArgumentError, match=r"metadata must not have .*\[\'config\'\], which"):
        save_cgn(make_cgn(), tmp_path / "cgn.safetensors", config="mine")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save_cgn(make_cgn(), tmp_path / "missing" / "cgn.safetensors")
    (tmp_path / "file").write_text("a file, not a folder")
    with pytest.raises(NotADirectoryError):
        save_cgn(make_cgn(), tmp_path / "file" / "cgn.safetensors")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(state: object, filename: str, metadata: object) -> None:
        Path(filename).write_bytes(b"half of it")
        raise OSError("no space left on device")

    path = tmp_path / "cgn.safetensors"
    save_cgn(make_cgn(), path)
    before = path.read_bytes()
    monkeypatch.setattr(files_module, "save_file", full)
    with pytest.raises(OSError, match="no space left"):
        save_cgn(make_cgn(1), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["cgn.safetensors"]
    assert path.read_bytes() == before


def test_a_bundled_generator_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cgn = make_cgn().freeze()
    save_cgn(cgn, tmp_path / "second.safetensors", recipe="tiny")
    save_cgn(make_cgn(1), tmp_path / "first.safetensors")
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
    return {name: value.clone() for name, value in make_cgn().state_dict().items()}


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
    save_cgn(make_cgn(), path)
    path.write_bytes(path.read_bytes()[:-3000])


def scripted(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("constants.pkl", "version", "data.pkl"):
            archive.writestr(f"archive/{name}", "3")


def header(**changes: str) -> dict[str, str]:
    return {
        "format": FORMAT,
        "architecture": "small",
        "config": json.dumps(make_cgn().config),
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
        r"not a small CGN: it lacks label_emb\.weight .* it has \['bias', 'weight'\]",
    ),
    "empty state dict": (".pth", saving({}), "not a small CGN: it lacks"),
    "missing and unknown names": (
        ".pth",
        without_some,
        r"2 names are missing \['f_text1\.0\.weight', 'f_text2\.10\.bias'\] and 1 are unknown "
        r"\['discriminator\.weight'\]",
    ),
    "other shapes": (
        ".pth",
        with_other_shapes,
        r"1 tensors have another shape than the network, the first is f_text1\.0\.bias: \(7,\) "
        r"where \(512,\) is needed",
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
    "config that is a list": (".safetensors", config("[4]"), r"no small CGN: \[4\]"),
    "unknown setting": (".safetensors", config('{"depth": 4}'), "no small CGN: .*'depth'"),
    "unknown network": (".safetensors", config('{"shape_network": "x"}'), "no small CGN: .*'x'"),
    "impossible size": (".safetensors", config('{"width": -4}'), "no small CGN: .*-4"),
    "size that is text": (".safetensors", config('{"width": "4"}'), "no small CGN: .*'4'"),
    "other size": (".safetensors", config('{"width": 5}'), "another shape than the network"),
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


def test_an_upsampling_convolution_is_that_of_the_published_layers() -> None:
    layer = UpConv2d(3, 5).double()
    images = torch.randn(2, 3, 8, 4, dtype=torch.float64, requires_grad=True)
    plain = F.conv2d(F.interpolate(images, scale_factor=2), layer.weight, padding=1)
    made = layer(images)
    torch.testing.assert_close(made, plain)
    weights = torch.randn_like(made)
    inputs = (images, layer.weight)
    gradients = torch.autograd.grad((made * weights).sum(), inputs, retain_graph=True)
    expected = torch.autograd.grad((plain * weights).sum(), inputs)
    torch.testing.assert_close(gradients, expected)


def test_the_benchmarks_published_layers_draw_the_same() -> None:
    cgn = make_tiny_cgn().eval()
    plain = use_published_layers(copy.deepcopy(cgn))
    assert any(type(part) is not UpConv2d for part in plain.modules() if isinstance(part, UpConv2d))
    noise, y = cgn.draw_noise(4, torch.Generator().manual_seed(0)), torch.arange(4)
    for name in ("shape", "texture", "background"):
        torch.testing.assert_close(getattr(plain, name)(noise, y), getattr(cgn, name)(noise, y))
