"""The precisions that can be trained in."""

from __future__ import annotations

from typing import Literal, get_args

Precision = Literal["no", "bf16"]
"""As accelerate names them: "no" is float32; "bf16" computes in bfloat16 what tolerates it."""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
