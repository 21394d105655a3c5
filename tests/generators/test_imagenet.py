"""The ImageNet CGN and its checkpoints, at reduced size."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import make_tiny_cgn
from generator_helpers import CLOSE, draw, require_close
from imagenet_helpers import (
    REDUCED,
    State,
    make_reduced_biggan,
    make_reduced_cgn,
)
from safetensors.torch import save_file

from cgn_augment import load_cgn
from cgn_augment.errors import ArgumentError, CheckpointError, FileError
from cgn_augment.functional import compose
from cgn_augment.generators import (
    BigGANConfig,
    ImageNetCGN,
    load_biggan,
    load_u2net,
    read_metadata,
    save_cgn,
    start_imagenet_cgn,
    tensors,
)
from cgn_augment.generators.assembly import FORMAT


@pytest.fixture(scope="module")
def reduced() -> ImageNetCGN:
    """A frozen and folded CGN of 32 pixels and six classes."""
    return make_reduced_cgn().freeze()


@pytest.fixture(scope="module")
def reduced_state() -> State:
    return published_state(make_reduced_cgn())


def published_state(cgn: ImageNetCGN, prefix: str = "") -> State:
    """What the published code would save: also the fourth BigGAN."""
    targets = {f"biggan_GT.{k}": v + 1 for k, v in cgn.f_text.state_dict().items()}
    return {f"{prefix}{k}": v for k, v in {**targets, **cgn.state_dict()}.items()}


# The network


def test_the_mask_is_u2net_of_the_premask_within_its_bounds() -> None:
    cgn = make_reduced_cgn().freeze(fold=False)
    noise, y = cgn.draw_noise(2, torch.Generator()), torch.tensor([1, 2])
    premask = cgn.premask(noise, y)
    torch.testing.assert_close(premask, cgn.f_shape(noise, y))
    torch.testing.assert_close(cgn.shape(noise, y), cgn.u2net(premask).clamp(1e-4, 0.9999))
    for logit, bound in ((-100, 1e-4), (100, 0.9999)):
        with torch.no_grad():
            cgn.u2net.outconv.bias.fill_(logit)
        assert cgn.shape(noise, y).unique().item() == pytest.approx(bound)


def test_a_cgn_in_training_trains_its_mechanisms_and_not_u2net() -> None:
    cgn = make_reduced_cgn().train()
    statistics = {name: value.clone() for name, value in cgn.named_buffers()}
    drawn = draw(cgn)
    compose(drawn["shape"], drawn["texture"], drawn["background"]).mean().backward()
    trained = {name.split(".")[0] for name, p in cgn.named_parameters() if p.grad is not None}
    assert trained == {"f_shape", "f_text", "f_bg"}
    assert all(torch.equal(value, statistics[name]) for name, value in cgn.named_buffers())


def test_noise_is_truncated_and_follows_its_generator_alone(reduced: ImageNetCGN) -> None:
    noise = reduced.draw_noise(5000, torch.Generator().manual_seed(4))
    assert noise.shape == (5000, 8)
    assert 1.99 < noise.abs().max() <= 2
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    # The standard deviation of a standard normal variable that is cut off at ±2.
    assert noise.std().item() == pytest.approx(0.8796, abs=0.01)
    assert torch.equal(noise, reduced.draw_noise(5000, torch.Generator().manual_seed(4)))
    half = copy.deepcopy(reduced)
    half.set_truncation(0.5)
    torch.testing.assert_close(half.draw_noise(5000, torch.Generator().manual_seed(4)), noise / 2)


def test_truncation_decides_the_images_and_the_fingerprint() -> None:
    cgn = make_reduced_cgn().freeze()
    noise, y = cgn.draw_noise(1, torch.Generator()), torch.tensor([2])
    full, weights = cgn.texture(noise, y), cgn.fingerprint
    assert len(weights) == 12
    cgn.set_truncation(0.58)
    exact, of_exact = cgn.texture(noise, y), cgn.fingerprint
    cgn.set_truncation(0.58, "published")
    published, of_published = cgn.texture(noise, y), cgn.fingerprint
    assert not torch.equal(full, exact)
    assert not torch.equal(exact, published)
    assert len({weights, of_exact, of_published}) == 3
    assert all(name.startswith(weights) for name in (of_exact, of_published))
    cgn.set_truncation(1, "exact")
    assert cgn.fingerprint == weights
    with pytest.raises(ArgumentError, match=r"above 0 and at most 1, got 1\.5"):
        cgn.set_truncation(1.5)
    assert cgn.truncation == 1


def test_the_fingerprint_does_not_depend_on_folding_and_textures_stay(reduced: ImageNetCGN) -> None:
    unfolded, images = make_reduced_cgn().freeze(fold=False), torch.rand(2, 3, 32, 32)
    assert reduced.fingerprint == unfolded.fingerprint == make_reduced_cgn().fingerprint
    assert reduced.shuffle(images, torch.Generator()) is images


def test_arguments_that_cannot_be_used_are_errors() -> None:
    with pytest.raises(ArgumentError, match="must be one of exact, published, got 'near'"):
        ImageNetCGN(REDUCED, truncation_lookup="near")  # type: ignore[arg-type]
    layers = ((False, 16, 8), (True, 8, 4), (False, 4, 2), (True, 2, 1))
    with pytest.raises(ArgumentError, match="images of 16 pixels, and U2-Net needs 32"):
        ImageNetCGN(BigGANConfig(6, 8, 4, layers, 2))


def test_a_cgn_of_bfloat16_returns_float32_factors(reduced: ImageNetCGN) -> None:
    half = copy.deepcopy(reduced).to(torch.bfloat16)
    expected = draw(reduced)
    for factor, values in draw(half).items():
        assert values.dtype == torch.float32
        assert 0 < (values - expected[factor]).abs().mean() < 0.05


# Reading and writing


@pytest.mark.parametrize(
    ("prefix", "legacy", "mapped"),
    [("", False, False), ("", True, True), ("module.", False, True)],
)
def test_a_published_state_dict_is_read_without_its_targets(
    prefix: str, legacy: bool, mapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "_MAPPED_FROM", 0 if mapped else 2**40)
    cgn, path = make_reduced_cgn(), tmp_path / "cgn.pth"
    torch.save(published_state(cgn, prefix), path, _use_new_zipfile_serialization=not legacy)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    loaded = load_cgn(path)
    assert isinstance(loaded, ImageNetCGN)
    assert loaded.frozen
    assert loaded.config == {**cgn.config, "folded": True}
    assert loaded.fingerprint == cgn.fingerprint
    assert not [name for name in loaded.state_dict() if "GT" in name]
    require_close(draw(loaded), draw(cgn.eval()))
    # Folding writes to the weights, and not to the file that they may be mapped from.
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    assert read_metadata(path) == {}
    (tmp_path / "cut.pth").write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(CheckpointError, match="cut off or not a checkpoint: copy it again"):
        load_cgn(tmp_path / "cut.pth")


def test_weights_that_share_memory_in_a_file_are_folded_once_each(tmp_path: Path) -> None:
    biggan, u2net, path = make_reduced_biggan(), make_reduced_cgn().u2net, tmp_path / "cgn.pth"
    parts = {name: biggan.state_dict() for name in ("f_shape", "f_text", "f_bg")}
    parts["u2net"] = u2net.state_dict()
    torch.save({f"{p}.{k}": v for p, state in parts.items() for k, v in state.items()}, path)
    loaded = load_cgn(path)
    noise, y = loaded.draw_noise(2, torch.Generator()), torch.arange(2)
    expected = biggan(noise, y)
    for drawn in (loaded.premask, loaded.texture, loaded.background):
        torch.testing.assert_close(drawn(noise, y), expected, **CLOSE)


@pytest.mark.parametrize("fold", [False, True])
def test_a_saved_cgn_comes_back_whole(fold: bool, tmp_path: Path) -> None:
    # Which blocks double the size, the tensors do not say.
    layers = ((True, 16, 8), (True, 8, 4), (True, 4, 2), (False, 2, 1))
    settings = {"truncation": 0.6, "truncation_lookup": "published"}
    cgn = make_reduced_cgn(BigGANConfig(6, 8, 4, layers, 2), **settings)
    expected = draw(cgn.eval())
    if fold:
        cgn.freeze()
    path = tmp_path / "cgn.safetensors"
    save_cgn(cgn, path)
    assert read_metadata(path)["architecture"] == "imagenet"
    loaded = load_cgn(path, fold=fold)
    assert isinstance(loaded, ImageNetCGN)
    assert loaded.config == {**cgn.config, "folded": fold}
    assert loaded.config["biggan"]["layers"] == layers
    assert (loaded.truncation, loaded.truncation_lookup) == (0.6, "published")
    states = cgn.state_dict(), loaded.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    require_close(draw(loaded), expected)


def test_truncation_is_chosen_when_loading(tmp_path: Path) -> None:
    path = tmp_path / "cgn.safetensors"
    save_cgn(make_reduced_cgn(), path)
    loaded = load_cgn(path, truncation=0.5, truncation_lookup="published", fold=False)
    assert loaded.config["truncation"] == 0.5
    assert loaded.config["truncation_lookup"] == "published"
    assert not loaded.config["folded"]
    save_cgn(make_tiny_cgn(), tmp_path / "small.safetensors")
    with pytest.raises(ArgumentError, match="is a small CGN, which has no truncation: leave it"):
        load_cgn(tmp_path / "small.safetensors", truncation=0.5)


def without(*prefixes: str) -> Callable[[State], State]:
    return lambda state: {k: v for k, v in state.items() if not k.startswith(prefixes)}


def alone(prefix: str) -> Callable[[State], State]:
    return lambda state: {k.removeprefix(prefix): v for k, v in state.items() if prefix in k}


# What `build` checks of every network is in test_small.py.
BAD_STATES: dict[str, tuple[Callable[[State], State], str]] = {
    "no U2-Net": (without("u2net."), r"is not a U2-Net: .*side1.weight.* it has \[\]"),
    "no background": (
        without("f_bg."),
        r'is of another network: .* Missing key.* "f_bg\.embeddings\.weight"',
    ),
    "no attention": (without("f_shape.generator.layers.4."), "is not a BigGAN-deep generator"),
    "a BigGAN alone": (alone("f_text."), "it is a BigGAN alone, .* load_biggan reads it"),
    "a U2-Net alone": (alone("u2net."), "it is a U2-Net alone, .* load_u2net reads it"),
}


@pytest.mark.parametrize("kind", BAD_STATES)
def test_a_state_dict_of_something_else_is_one_clear_error(
    kind: str, reduced_state: State, tmp_path: Path
) -> None:
    damage, message = BAD_STATES[kind]
    path = tmp_path / "bad.pth"
    torch.save(damage(reduced_state), path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_cgn(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"), [('{"biggan": {"depth": 3}}', "depth"), ('{"unet_width": 6}', "got 6")]
)
def test_a_config_of_something_else_is_one_clear_error(
    config: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.safetensors"
    metadata = {"format": FORMAT, "architecture": "imagenet", "config": config}
    save_file({"anything": torch.zeros(1)}, path, metadata=metadata)
    with pytest.raises(CheckpointError, match=f"describes no network: .*{message}"):
        load_cgn(path)


# The weights that a training starts from


def test_published_biggan_and_u2net_files_start_a_cgn(tmp_path: Path) -> None:
    biggan, u2net = make_reduced_biggan(), make_reduced_cgn().u2net
    state = biggan.state_dict()
    # Early versions of torch saved the normalised weight too.
    state["generator.gen_z.weight"] = torch.zeros_like(state["generator.gen_z.weight_orig"])
    torch.save(state, tmp_path / "biggan.bin", _use_new_zipfile_serialization=False)
    torch.save(u2net.state_dict(), tmp_path / "u2net.pth")
    read = load_biggan(tmp_path / "biggan.bin")
    assert read.config == REDUCED
    assert all(torch.equal(v, state[k]) for k, v in read.state_dict().items())
    found = load_u2net(tmp_path / "u2net.pth")
    assert found.width == 4
    assert not found.training
    assert not any(p.requires_grad for p in found.parameters())

    cgn = start_imagenet_cgn(tmp_path / "biggan.bin", tmp_path / "u2net.pth", truncation=0.9)
    assert not cgn.frozen
    assert cgn.truncation == 0.9
    noise, y = cgn.draw_noise(2, torch.Generator()), torch.arange(2)
    torch.testing.assert_close(cgn.premask(noise, y), biggan(noise, y, 0.9))
    torch.testing.assert_close(cgn.texture(noise, y), cgn.background(noise, y))
    with torch.no_grad():  # weights of their own
        cgn.f_text.embeddings.weight.zero_()
    torch.testing.assert_close(cgn.background(noise, y), biggan(noise, y, 0.9))


def test_other_files_in_their_place_are_clear_errors(tmp_path: Path) -> None:
    torch.save(make_reduced_biggan().state_dict(), tmp_path / "biggan.bin")
    torch.save(make_reduced_cgn().u2net.state_dict(), tmp_path / "u2net.pth")
    with pytest.raises(CheckpointError, match="is not a BigGAN-deep generator"):
        load_biggan(tmp_path / "u2net.pth")
    with pytest.raises(CheckpointError, match=r"is not a U2-Net: .* it is a BigGAN alone"):
        load_u2net(tmp_path / "biggan.bin")
    for load in (load_biggan, load_u2net):
        with pytest.raises(FileError, match="`train-generator fetch-weights` down"):
            load(tmp_path / "missing")
