"""The generators that come with the package are what their cards say."""

from __future__ import annotations

import json
import re
from configparser import ConfigParser
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cgn_augment import load_cgn
from cgn_augment.generators import bundled_generators, read_metadata
from cgn_augment.generators.checkpoint import WEIGHTS
from cgn_augment.generators.drawing import draw_factors
from train_generator.metrics.factors import mask_entropy
from train_generator.mnist import load_shape_judge, predict
from train_generator.small.card import repeat_command
from train_generator.small.config import (
    FactorsConfig,
    MaskerConfig,
    ShapesConfig,
    SmallConfig,
    TexturesConfig,
)

REPO = Path(__file__).resolve().parents[2]
NAMES = {
    "colored-mnist": "colored",
    "double-colored-mnist": "double_colored",
    "wildlife-mnist": "wildlife",
    "wildlife-dtd-mnist": "wildlife",
}


def test_these_generators_come_with_the_package_and_it_takes_their_files_along() -> None:
    assert bundled_generators() == sorted(NAMES)
    setup = ConfigParser()
    setup.read(REPO / "setup.cfg")
    patterns = setup["options.package_data"]["cgn_augment.generators"].split(", ")
    for path in WEIGHTS.iterdir():
        assert any(path.match(pattern) for pattern in patterns), path.name


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_generator_draws_the_digits_that_it_is_asked_for(name: str) -> None:
    classes = (torch.arange(300) % 10).expand(3, -1)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        factors = draw_factors(load_cgn(name), classes, generator, 1, 100)
    seen = predict(load_shape_judge(), (factors.mask > 0.5).float())
    assert (seen == classes[0]).float().mean() > 0.96
    assert mask_entropy(factors.mask) < 0.2
    for images in (factors.foreground, factors.background):
        assert images.abs().max() <= 1


@pytest.mark.parametrize(("name", "variant"), NAMES.items())
def test_a_card_names_command_and_weights_of_half_precision(name: str, variant: str) -> None:
    card = (WEIGHTS / f"{name}.md").read_text()
    metadata = read_metadata(name)
    assert metadata["variant"] == variant
    assert load_cgn(name).fingerprint in card
    state = load_file(WEIGHTS / f"{name}.safetensors")
    floats = {value.dtype for value in state.values() if value.is_floating_point()}
    assert floats == {torch.float16}
    assert (WEIGHTS / f"{name}.png").stat().st_size > 10_000
    assert f"({name}.png)" in card
    recipe = json.loads(metadata["recipe"])
    command = re.search(r"command: `(.*)`", card)
    assert command is not None
    nested = {
        "factors": FactorsConfig,
        "masker": MaskerConfig,
        "texturing": TexturesConfig,
        "shapes": ShapesConfig,
    }
    try:
        for key, kind in nested.items():
            values = {k: tuple(v) if isinstance(v, list) else v for k, v in recipe[key].items()}
            recipe[key] = kind(**values)
    except (KeyError, TypeError):  # settings that there are no more
        assert "- recipe: an earlier one" in card
        return
    assert "- recipe: an earlier one" not in card
    flags = {flag: recipe.pop(flag) for flag in ("variant", "textures", "num_train")}
    assert command[1] == repeat_command(SmallConfig(**recipe), flags)
