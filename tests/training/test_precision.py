"""bf16 on a processor that cannot compute in it."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch

from train_generator.training import machine
from train_generator.training.machine import make_accelerator
from train_generator.training.precision import Precision, warn_of_slow_precision


def pretend(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)


@pytest.mark.parametrize("capability", ["DEFAULT", "AVX2"])
def test_bf16_without_instructions_for_it_is_a_warning(
    capability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, capability)
    # A process has one precision in accelerate, and other tests have chosen it.
    cpu = SimpleNamespace(device=torch.device("cpu"))
    monkeypatch.setattr(machine, "Accelerator", lambda **_: cpu)
    with pytest.warns(UserWarning, match=f"{capability}.* ten times as long .* leave the preci"):
        make_accelerator("cpu", "bf16")


@pytest.mark.parametrize(
    ("precision", "device", "capability"),
    [("no", "cpu", "AVX2"), ("bf16", "cuda", "AVX2"), ("bf16", "cpu", "AVX512")],
)
def test_what_is_fast_is_no_warning(
    precision: Precision, device: str, capability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, capability)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_slow_precision(precision, torch.device(device))
