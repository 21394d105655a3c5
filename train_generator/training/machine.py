"""What all trainings share: their device, and the settings they write."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from cgn_augment.errors import ArgumentError
from cgn_augment.generators.checkpoint import require_device
from train_generator.training.precision import Precision, warn_of_slow_precision

CGN_FILE = "cgn.safetensors"
"""File name of a trained CGN in the folder of its training."""


def make_accelerator(device: str, precision: Precision, **options: Any) -> Accelerator:
    """Returns the accelerator of a training.

    Args:
        device: "auto", "cpu" or a GPU's name.
        precision: precision of the computation.
        options: further options of the accelerator.

    Raises:
        ArgumentError: the device is of another kind.
        UsageError: the device does not exist.
    """
    if device not in ("auto", "cpu"):
        require_device(device)
        if not device.startswith("cuda"):
            raise ArgumentError(f"device must be auto, cpu or cuda, got {device!r}")
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision=precision, **options)
    warn_of_slow_precision(precision, accelerator.device)
    return accelerator


def write_settings(config: Any, folder: Path, accelerator: Accelerator, **more: Any) -> None:
    """Writes settings, versions, machine and further facts beside the checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "settings": asdict(config),
        **more,
        "versions": versions(),
        "device": str(accelerator.device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }
    (folder / "settings.json").write_text(json.dumps(facts, indent=2) + "\n")


def versions() -> dict[str, str]:
    """Returns the versions that the weights depend on."""
    return {name: version(name) for name in ("cgn-augment", "torch", "accelerate")}
