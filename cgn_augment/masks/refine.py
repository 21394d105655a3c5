"""Refines masks, alone or with their image; each function takes the mask of one image.

Images are (H, W, 3) uint8, masks (H, W) float32 in [0, 1]; values above 1/2 are object.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cgn_augment.errors import MissingPackageError
from cgn_augment.masks.settings import MaskSettings

Pixels = NDArray[np.uint8]
Mask = NDArray[np.float32]

RADIUS = 0.02
"""Radius of the guided filter, as a share of the image's longer side."""

EPSILON = 1e-3
"""Regulariser of the guided filter, for guides in [0, 1]: smaller variances are not edges."""

BAND = 0.04
"""Width of the band around a mask's edge where GrabCut decides, as a share of the longer side."""

ROUNDS = 5
"""Of GrabCut."""

MARGIN = 0.04
"""Margin on each side that GrabCut without a mask takes as background, as a share of the image."""


def refine(image: Pixels, mask: Mask, settings: MaskSettings) -> Mask:
    """Refines the parts, edge and holes of a mask as the settings say.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) float32 in [0, 1].
        settings: what to refine.

    Returns:
        (H, W) float32 in [0, 1].

    Raises:
        MissingPackageError: refining edges needs OpenCV, which is not installed.

    Examples:
        >>> import numpy as np
        >>> from cgn_augment.masks.refine import refine
        >>> from cgn_augment.masks.settings import MaskSettings
        >>> mask = np.float32([[1, 1, 1, 0, 1], [1, 0, 1, 0, 0], [1, 1, 1, 0, 0]])
        >>> image = np.zeros((3, 5, 3), np.uint8)
        >>> refine(image, mask, MaskSettings(largest=True, close=True)).sum(axis=0).tolist()
        [3.0, 3.0, 3.0, 0.0, 0.0]
    """
    mask = keep_largest(mask) if settings.largest else mask
    if settings.edges == "guided":
        mask = refine_guided(image, mask)
    elif settings.edges == "grabcut":
        cut = refine_grabcut(image, mask)
        mask = keep_largest(cut) if settings.largest else cut  # the cut may have split it
    return close_holes(mask) if settings.close else mask


def keep_largest(mask: Mask) -> Mask:
    """Keeps the largest connected part of the object; pixels nearer to another part are removed.

    Args:
        mask: (H, W) float32 in [0, 1].

    Examples:
        >>> import numpy as np
        >>> from cgn_augment.masks.refine import keep_largest
        >>> keep_largest(np.float32([[1, 1, 0, 0, 0.2, 1]])).tolist()
        [[1.0, 1.0, 0.0, 0.0, 0.0, 0.0]]
    """
    labels, num = ndimage.label(mask > 0.5)
    if num < 2:
        return mask
    largest = 1 + int(np.bincount(labels.ravel())[1:].argmax())
    rows, columns = ndimage.distance_transform_edt(
        labels == 0, return_distances=False, return_indices=True
    )
    return np.where(labels[rows, columns] == largest, mask, np.float32(0))


def close_holes(mask: Mask) -> Mask:
    """Fills the holes that the object surrounds.

    Args:
        mask: (H, W) float32 in [0, 1].

    Examples:
        >>> import numpy as np
        >>> from cgn_augment.masks.refine import close_holes
        >>> close_holes(np.float32([[1, 1, 1], [1, 0, 1], [1, 1, 1]])).min().item()
        1.0
    """
    inside = mask > 0.5
    holes = ndimage.binary_fill_holes(inside) & ~inside
    return np.where(holes, np.float32(1), mask)


def refine_guided(image: Pixels, mask: Mask) -> Mask:
    """Aligns a mask's edge with the image's edges by the guided filter.

    He, Sun and Tang, Guided Image Filtering, TPAMI 2013, equations 5, 6 and 8, with the grey image
    as the guide.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) float32 in [0, 1].

    Raises:
        MissingPackageError: OpenCV is not installed.
    """
    cv2 = import_opencv("a guided filter")
    guide = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    side = 2 * max(1, round(RADIUS * max(mask.shape))) + 1

    def mean(values: Mask) -> Mask:
        found: Mask = cv2.blur(values, (side, side))
        return found

    of_guide, of_mask = mean(guide), mean(mask)
    slope = (mean(guide * mask) - of_guide * of_mask) / (
        mean(guide * guide) - of_guide**2 + np.float32(EPSILON)
    )
    offset = of_mask - slope * of_guide
    refined: Mask = np.clip(mean(slope) * guide + mean(offset), 0, 1)
    return refined


def refine_grabcut(image: Pixels, mask: Mask) -> Mask:
    """Cuts the object out again near the mask's edge, by colour (GrabCut); returns 0 and 1.

    Rother, Kolmogorov and Blake, GrabCut, SIGGRAPH 2004. Pixels far inside the mask stay object,
    far outside background. A mask without object or without background stays as it is.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) float32 in [0, 1].

    Raises:
        MissingPackageError: OpenCV is not installed.
    """
    cv2 = import_opencv("GrabCut")
    inside = mask > 0.5
    if inside.all() or not inside.any():
        return mask
    band = max(2.0, BAND * max(mask.shape))
    trimap = np.where(inside, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    trimap[ndimage.distance_transform_edt(inside) > band] = cv2.GC_FGD
    trimap[ndimage.distance_transform_edt(~inside) > band] = cv2.GC_BGD
    return _grabcut(cv2, image, trimap)


def find_by_grabcut(image: Pixels) -> Mask:
    """Finds the object without a network: what differs in colour from the image's margin.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        (H, W) float32 of 0 and 1; no object if the image has one colour.

    Raises:
        MissingPackageError: OpenCV is not installed.
    """
    cv2 = import_opencv("GrabCut")
    trimap = np.full(image.shape[:2], cv2.GC_BGD, np.uint8)
    top, left = (max(1, round(MARGIN * side)) for side in image.shape[:2])
    trimap[top:-top, left:-left] = cv2.GC_PR_FGD
    return _grabcut(cv2, image, trimap)


def _grabcut(cv2: ModuleType, image: Pixels, trimap: NDArray[np.uint8]) -> Mask:
    found = trimap & 1  # the codes of objects are odd
    if found.all() or not found.any():
        return found.astype(np.float32)
    cv2.setRNGSeed(0)  # of this thread only
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(image, trimap, None, *models, ROUNDS, cv2.GC_INIT_WITH_MASK)
    return (trimap & 1).astype(np.float32)


def import_opencv(what: str) -> ModuleType:
    """Returns the module of OpenCV, which `what` needs.

    Args:
        what: what needs it, for the error.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise MissingPackageError(
            f'{what} needs OpenCV: pip install "cgn-augment[fill]"'
        ) from error
    return cv2
