"""Builds networks from the tensors in files. Nothing is unpickled that could run code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

from torch import Tensor, nn

from cgn_augment.errors import CheckpointError
from cgn_augment.files import first_line, parse_json
from cgn_augment.generators.biggan import BigGANConfig
from cgn_augment.generators.imagenet import ImageNetCGN
from cgn_augment.generators.layout import without_memory
from cgn_augment.generators.small import SmallCGN
from cgn_augment.generators.tensors import read_safetensors, read_state_dict

StateDict = dict[str, Tensor]
Config = dict[str, Any]
Network = TypeVar("Network", bound=nn.Module)

CGN = SmallCGN | ImageNetCGN
"""A network of either kind: what `load_cgn` returns."""

FORMAT = "cgn_augment/1"
REMEDY = "write it with save_cgn"

_ARCHITECTURES: dict[str, Callable[..., CGN]] = {"small": SmallCGN, "imagenet": ImageNetCGN}

_TARGETS_ONLY = "biggan_GT."
"""Prefix of the published checkpoint's fourth BigGAN, which only training needs."""


def read_cgn(path: Path) -> CGN:
    """Reads a CGN, not frozen, as float32 whatever type the file has.

    Raises:
        CheckpointError: the file is truncated, would run code, belongs to another network, or holds
            NaN.
    """
    if path.suffix != ".safetensors":
        state = read_state_dict(path, without=_TARGETS_ONLY)
        if any(name.startswith(("f_shape.generator.", "f_text.", "u2net.")) for name in state):
            return build(path, state, ImageNetCGN, _infer_imagenet_config(path, state))
        return build(path, state, SmallCGN, _infer_small_config(path, state))
    state, header = read_safetensors(path, what="a CGN", remedy=REMEDY, format=FORMAT)
    kind = _ARCHITECTURES.get(header.get("architecture", ""))
    if kind is None:
        raise CheckpointError(
            f"{path} holds the architecture {header.get('architecture')!r}; this version knows "
            f"{' and '.join(map(repr, _ARCHITECTURES))}"
        )
    try:
        config = parse_json(header["config"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path} has no readable config in its metadata: {error}") from error
    return build(path, state, kind, config)


def build(path: Path, state: StateDict, kind: Callable[..., Network], config: Config) -> Network:
    """Builds a network that owns the tensors of `state`, after all checks."""
    try:
        with without_memory():  # weights are replaced below
            network = kind(**config)
    except (TypeError, RuntimeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(
            f"{path} describes no network: {shorten(str(config), 200)} ({first_line(error)})"
        ) from error
    expected = network.state_dict()
    for name in state.keys() & expected.keys():
        if state[name].is_floating_point() != expected[name].is_floating_point():
            raise CheckpointError(
                f"{path}: {name} holds {state[name].dtype}, which is no weight of a CGN"
            )
    try:
        # `assign` keeps the tensors that were read, so that there is never a second copy.
        network.load_state_dict(_untie(state), assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} is of another network: {shorten(str(error), 400)}"
        ) from error
    return network.float()


def _untie(state: StateDict) -> StateDict:
    """Copies tensors that share memory in the file, so that each can change alone."""
    seen: set[int] = set()
    own = {}
    for name, value in state.items():
        own[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return own


@contextmanager
def _reading_sizes(path: Path, state: StateDict, what: str) -> Iterator[None]:
    """Reports what a file is not, if the block misses a tensor or finds one of another shape."""
    try:
        yield
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        advice = ""
        if "generator.bn.weight" in state:
            advice = "; it is a BigGAN alone, from which a training starts: load_biggan reads it"
        elif "side1.weight" in state:
            advice = "; it is a U2-Net alone, from which a training starts: load_u2net reads it"
        raise CheckpointError(
            f"{path} is not {what}: its tensors do not say the sizes of one ({error!r}); it has "
            f"{sorted(state)[:3]}{advice}"
        ) from error


def _infer_small_config(path: Path, state: StateDict) -> Config:
    with _reading_sizes(path, state, "a small CGN"):
        num_classes, embedding_dim = state["label_emb.weight"].shape
        noise_dim = state["f_shape.0.weight"].shape[1] - embedding_dim
        sizes = {"num_classes": num_classes, "noise_dim": noise_dim}
        sizes |= {"embedding_dim": embedding_dim, "width": state["f_shape.4.weight"].shape[0]}
    return sizes


def _infer_imagenet_config(path: Path, state: StateDict) -> Config:
    parts: list[StateDict] = [
        {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        for prefix in ("f_shape.", "u2net.")
    ]
    return {"biggan": infer_biggan(path, parts[0]), "unet_width": infer_unet_width(path, parts[1])}


def infer_biggan(path: Path, state: StateDict) -> BigGANConfig:
    """Infers the sizes of a BigGAN from the shapes of its tensors.

    The shapes do not tell which blocks double the size; it is every second, as in all published
    ones.
    """
    with _reading_sizes(path, state, "a BigGAN-deep generator"):
        noise_dim, num_classes = state["embeddings.weight"].shape
        num_statistics, width = state["generator.bn.running_means"].shape
        gammas = [name for name in state if name.endswith(".gamma")]
        attention_at = int(gammas[0].split(".")[2])  # generator.layers.8.gamma
        num_layers = len({name.split(".")[2] for name in state if ".layers." in name})
        layers: list[tuple[bool, int, int]] = []
        for number in (i for i in range(num_layers) if i != attention_at):
            block = f"generator.layers.{number}"
            dim_in = state[f"{block}.bn_0.running_means"].shape[1]
            dim_out = state[f"{block}.conv_3.bias"].shape[0]
            layers.append((len(layers) % 2 == 1, dim_in // width, dim_out // width))
        return BigGANConfig(
            num_classes, noise_dim, width, tuple(layers), attention_at, num_statistics
        )


def infer_unet_width(path: Path, state: StateDict) -> int:
    """Infers the width of a U2-Net from the shapes of its tensors."""
    with _reading_sizes(path, state, "a U2-Net"):
        return int(state["side1.weight"].shape[1])
