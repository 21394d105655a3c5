"""The precisions for training."""

from __future__ import annotations

import warnings
from typing import Literal

import torch

Precision = Literal["no", "bf16"]
"""As accelerate names them: "no" is float32; "bf16" uses bfloat16 where it is safe."""

_WITHOUT_BF16 = ("DEFAULT", "AVX2")


def warn_of_slow_precision(precision: Precision, device: torch.device) -> None:
    """Warns if bfloat16 is requested on a processor without instructions for it.

    On a processor with AVX2 only, a training step of the paper's classifier took ten times as long
    in bf16 as in float32. With AVX-512 it was nearly twice as fast.

    Args:
        precision: the requested precision.
        device: device of the training.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    if precision == "bf16" and device.type == "cpu" and capability in _WITHOUT_BF16:
        warnings.warn(
            f"this processor ({capability}) has no bfloat16 instructions, so that bf16 takes about "
            "ten times as long as float32: leave the precision at no",
            stacklevel=2,
        )
