"""Makes a network of a state dict: finds its sizes, checks every tensor, and copies none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from cgn_augment.errors import CheckpointError
from cgn_augment.files import first_line
from cgn_augment.generators.biggan import BigGAN
from cgn_augment.generators.biggan_config import BigGANConfig
from cgn_augment.generators.imagenet import ImageNetCGN
from cgn_augment.generators.layout import without_memory
from cgn_augment.generators.small import SmallCGN
from cgn_augment.generators.u2net import U2Net

StateDict = dict[str, Tensor]
Config = dict[str, Any]
Network = TypeVar("Network", bound=nn.Module)

CGN = SmallCGN | ImageNetCGN

ARCHITECTURES = (SmallCGN.architecture, ImageNetCGN.architecture)

_NAMES: dict[type[nn.Module], str] = {
    SmallCGN: "a small CGN",
    ImageNetCGN: "an ImageNet CGN",
    BigGAN: "a BigGAN-deep generator",
    U2Net: "a U2-Net",
}


def find_architecture(state: StateDict) -> str:
    """Says which CGN a state dict without metadata is of; "small" if it looks like none."""
    of_imagenet = any(
        name.startswith(("f_shape.generator.", "f_text.", "u2net.")) for name in state
    )
    return ImageNetCGN.architecture if of_imagenet else SmallCGN.architecture


def build_cgn(path: Path, state: StateDict, architecture: str, config: Config | None) -> CGN:
    """Makes a CGN of the tensors of a file; its weights are float32, whatever the file has.

    Args:
        path: of the file, for messages.
        state: what it holds, without prefixes.
        architecture: one of `ARCHITECTURES`.
        config: the arguments of the network; found out from the tensors if there are none.

    Raises:
        CheckpointError: the tensors are of another network.
    """
    if architecture == ImageNetCGN.architecture:
        if config is None:
            config = _infer_imagenet_config(path, state)
        return build(path, state, ImageNetCGN, config)
    return build(path, state, SmallCGN, config or _infer_small_config(path, state))


def build_biggan(path: Path, state: StateDict) -> BigGAN:
    """Makes a BigGAN of its published tensors; errors as for `build_cgn`."""
    # Early versions of torch also saved the weight that the spectral norm makes.
    state = {name: value for name, value in state.items() if f"{name}_orig" not in state}
    return build(path, state, BigGAN, {"config": BigGANConfig(**infer_biggan_sizes(path, state))})


def build_u2net(path: Path, state: StateDict) -> U2Net:
    """Makes a U2-Net of its published tensors; errors as for `build_cgn`."""
    return build(path, state, U2Net, {"width": _infer_unet_width(path, state)})


def build(path: Path, state: StateDict, kind: Callable[..., Network], config: Config) -> Network:
    """Makes a network that has the tensors of `state` as its own, after all checks."""
    name = _NAMES[kind]  # type: ignore[index]
    try:
        with without_memory():  # weights are replaced below
            network = kind(**config)
    except (TypeError, RuntimeError, ValueError) as error:
        kind_name = name.split(" ", 1)[1]
        raise CheckpointError(
            f"{path} describes no {kind_name}: {config} ({first_line(error)})"
        ) from error
    _require_same_tensors(path, name, state, network.state_dict())
    # `assign` keeps the tensors that were read, so that there is never a second copy.
    network.load_state_dict(_untie(state), assign=True)
    return network.float()


def _require_same_tensors(
    path: Path, name: str, state: StateDict, network: Mapping[str, Tensor]
) -> None:
    missing = sorted(network.keys() - state.keys())
    unknown = sorted(state.keys() - network.keys())
    if missing or unknown:
        raise CheckpointError(
            f"{path} is not {name}: {len(missing)} names are missing {missing[:3]} and "
            f"{len(unknown)} are unknown {unknown[:3]}"
        )
    wrong = [name for name, value in network.items() if value.shape != state[name].shape]
    if wrong:
        raise CheckpointError(
            f"{path}: {len(wrong)} tensors have another shape than the network, the first is "
            f"{wrong[0]}: {tuple(state[wrong[0]].shape)} where {tuple(network[wrong[0]].shape)} "
            "is needed"
        )
    for name, value in state.items():
        if value.is_floating_point() != network[name].is_floating_point():
            raise CheckpointError(
                f"{path}: {name} holds {value.dtype}, which is no weight of a CGN"
            )


def _untie(state: StateDict) -> StateDict:
    """Gives tensors that share memory in the file memory of their own: each is changed alone."""
    seen: set[int] = set()
    own = {}
    for name, value in state.items():
        own[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return own


def _infer_small_config(path: Path, state: StateDict) -> Config:
    """Reads the sizes of a small CGN off the shapes of its tensors."""
    try:
        num_classes, embedding_dim = state["label_emb.weight"].shape
        width = state["f_shape.4.weight"].shape[0]
        dim_in = state["f_shape.0.weight"].shape[1]
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{path} is not a small CGN: it lacks label_emb.weight (classes, embedding) or the "
            f"weights of f_shape; it has {sorted(state)[:3]}{_advice(state)}"
        ) from error
    return {
        "num_classes": num_classes,
        "noise_dim": dim_in - embedding_dim,
        "embedding_dim": embedding_dim,
        "width": width,
    }


def _infer_imagenet_config(path: Path, state: StateDict) -> Config:
    sizes = infer_biggan_sizes(path, _part(state, "f_shape."))
    return {"biggan": sizes, "unet_width": _infer_unet_width(path, _part(state, "u2net."))}


def infer_biggan_sizes(path: Path, state: StateDict) -> Config:
    """Reads the sizes of a BigGAN off the shapes of its tensors.

    Which blocks double the size cannot be seen; it is every second one, as in all published ones.
    """
    try:
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
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path} holds no BigGAN-deep generator: it lacks embeddings.weight, the statistics of "
            f"generator.bn or the blocks of generator.layers; it has {sorted(state)[:3]}"
        ) from error
    return {
        "num_classes": num_classes,
        "noise_dim": noise_dim,
        "channel_width": width,
        "layers": tuple(layers),
        "attention_at": attention_at,
        "num_statistics": num_statistics,
    }


def _infer_unet_width(path: Path, state: StateDict) -> int:
    try:
        return int(state["side1.weight"].shape[1])
    except (KeyError, IndexError) as error:
        raise CheckpointError(
            f"{path} holds no U2-Net: it lacks side1.weight; it has {sorted(state)[:3]}"
        ) from error


def _part(state: StateDict, prefix: str) -> StateDict:
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def _advice(state: StateDict) -> str:
    if "generator.bn.weight" in state:
        return "; it is a BigGAN alone, from which a training starts: load_biggan reads it"
    if "side1.weight" in state:
        return "; it is a U2-Net alone, from which a training starts: load_u2net reads it"
    return ""
