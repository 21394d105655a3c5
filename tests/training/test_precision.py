"""bf16 on a processor that cannot compute in it."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch

from train_generator.training import machine
from train_generator.training.machine import make_accelerator
from train_generator.training.precision import Precision


@pytest.mark.parametrize(
    ("precision", "device", "capability", "is_slow"),
    [
        ("bf16", "cpu", "DEFAULT", True),
        ("bf16", "cpu", "AVX2", True),
        ("bf16", "cpu", "AVX512", False),
        ("bf16", "cuda", "AVX2", False),
        ("no", "cpu", "AVX2", False),
    ],
)
def test_bf16_without_instructions_for_it_is_a_warning(
    precision: Precision,
    device: str,
    capability: str,
    is_slow: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    # A process has one precision in accelerate, and other tests have chosen it.
    made = SimpleNamespace(device=torch.device(device))
    monkeypatch.setattr(machine, "Accelerator", lambda **_: made)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_accelerator("auto", precision)
    assert len(caught) == is_slow
    assert all("leave the precision at no" in str(each.message) for each in caught)
