"""The precisions that can be trained in."""

from __future__ import annotations

import warnings
from typing import Literal

import torch

Precision = Literal["no", "bf16"]
"""As accelerate names them: "no" is float32; "bf16" computes in bfloat16 what tolerates it."""

_WITHOUT_BF16 = ("DEFAULT", "AVX2")


def warn_of_slow_precision(precision: Precision, device: torch.device) -> None:
    """Warns where bfloat16 is asked for on a processor that has no instructions for it.

    Measured on one with AVX2 alone: a training step of the paper's classifier takes ten times as
    long in bf16 as in float32. With AVX-512 it is nearly twice as fast.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    if precision == "bf16" and device.type == "cpu" and capability in _WITHOUT_BF16:
        warnings.warn(
            f"this processor ({capability}) has no bfloat16 instructions, so that bf16 takes about "
            "ten times as long as float32: leave the precision at no",
            stacklevel=2,
        )
