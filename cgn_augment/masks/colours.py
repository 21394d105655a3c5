"""A masker without weights: GrabCut, which uses colours."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from cgn_augment.masks.refine import find_by_grabcut, import_opencv


class GrabCutMasker:
    """Takes the region whose colours differ from the margin of its image as the object.

    Raises:
        MissingPackageError: OpenCV is not installed.

    Examples:
        >>> import torch
        >>> from cgn_augment.masks.colours import GrabCutMasker
        >>> images = torch.zeros(1, 3, 32, 32)
        >>> images[:, :, 8:20, 8:20] = 0.9
        >>> round(GrabCutMasker()(images).mean().item() * 32 * 32)   # 12 by 12
        144
    """

    fingerprint = "grabcut"

    def __init__(self) -> None:
        import_opencv("GrabCut")

    def __call__(self, images: Tensor) -> Tensor:
        """Maps images (N, 3, H, W) in [-1, 1] to masks (N, 1, H, W) float32 of 0 and 1."""
        pixels = ((images.permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).byte().cpu()
        # In threads: OpenCV has a random generator per thread.
        with ThreadPoolExecutor(min(len(pixels), torch.get_num_threads()) or 1) as pool:
            found = list(pool.map(find_by_grabcut, pixels.numpy()))
        return torch.from_numpy(np.stack(found))[:, None].to(images.device)
