"""A few steps of the small generator's training on a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_helpers import make_config, make_images

from cgn_augment import load_cgn
from train_generator.small.training import SmallTraining

pytestmark = [
    pytest.mark.gpu,
    # Masks that are found after a few steps are too poor to complete textures from.
    pytest.mark.filterwarnings("ignore:no (fore|back)ground of the classes:UserWarning"),
]


def test_a_training_on_a_gpu_writes_a_generator(tmp_path: Path) -> None:
    config, (data, _) = make_config(device="cuda"), make_images()
    training = SmallTraining(config, data, tmp_path / "run", progress=False, save_every=2)
    weights = training.train()
    assert training.cgn.device.type == "cuda"
    for device in ("cpu", "cuda"):
        cgn = load_cgn(weights, device=device)
        noise = cgn.draw_noise(3, torch.Generator().manual_seed(0))
        images = cgn.texture(noise, torch.arange(3, device=device))
        assert images.device.type == device
        assert images.isfinite().all()
    again = SmallTraining(config, data, tmp_path / "run", progress=False, resume=True)
    assert again.train() == weights
