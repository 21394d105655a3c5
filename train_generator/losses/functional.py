"""The losses that train a CGN, as pure functions (Sauer and Geiger, ICLR 2021).

The paper trains the small CGN with LSGAN, mask entropy and Gram losses; the ImageNet CGN adds the
size of the mask. The hinge losses and the border loss belong to this project's recipe. Every loss
is a scalar with a gradient, in the dtype and on the device of its arguments. The recipes weight the
losses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cgn_augment.errors import ArgumentError, ArgumentTypeError


def lsgan_generator_loss(scores: Tensor) -> Tensor:
    """Returns how far the scores of generated images are from 1, "real".

    Mean of (score - 1)^2: Mao et al., Least Squares Generative Adversarial Networks, ICCV 2017,
    without their factor of one half.

    Args:
        scores: (B, 1) float scores of generated images, any real numbers; other shapes work too.

    Returns:
        Scalar of 0 or more.

    Raises:
        ArgumentError: there are no scores.
        ArgumentTypeError: the scores are not floating point.

    Examples:
        >>> import torch
        >>> from train_generator.losses.functional import lsgan_generator_loss
        >>> lsgan_generator_loss(torch.tensor([[1.0], [0.0]])).item()
        0.5
    """
    require_floats("scores", scores)
    return (scores - 1).square().mean()


def lsgan_discriminator_loss(real_scores: Tensor, generated_scores: Tensor) -> Tensor:
    """Returns how far scores are from 1 for real and from 0 for generated images.

    The mean of two terms, each a mean over its own images, so both kinds count equally however many
    there are. Source and errors as for `lsgan_generator_loss`.

    Args:
        real_scores: (B, 1) float scores of real images.
        generated_scores: (N, 1) float scores of generated images, detached from the generator.

    Returns:
        Scalar of 0 or more.

    Examples:
        >>> import torch
        >>> from train_generator.losses.functional import lsgan_discriminator_loss
        >>> lsgan_discriminator_loss(torch.tensor([[1.0]]), torch.tensor([[1.0]])).item()
        0.5
    """
    require_floats("real_scores", real_scores)
    require_floats("generated_scores", generated_scores)
    return ((real_scores - 1).square().mean() + generated_scores.square().mean()) / 2


def hinge_generator_loss(scores: Tensor) -> Tensor:
    """Returns minus the mean score: low if scores are high (Miyato et al., ICLR 2018, eq. 17).

    Errors as for `lsgan_generator_loss`.

    Args:
        scores: (B, 1) float scores of generated images; other shapes work too.

    Returns:
        Scalar of either sign.

    Examples:
        >>> import torch
        >>> from train_generator.losses.functional import hinge_generator_loss
        >>> hinge_generator_loss(torch.tensor([[1.0], [2.0]])).item()
        -1.5
    """
    require_floats("scores", scores)
    return -scores.mean()


def hinge_discriminator_loss(real_scores: Tensor, generated_scores: Tensor) -> Tensor:
    """Low if scores are above 1 for real and below -1 for generated images; beyond costs nothing.

    The sum of mean max(0, 1 - real) and mean max(0, 1 + generated) (Miyato et al., Spectral
    Normalization for Generative Adversarial Networks, ICLR 2018, eq. 16). Errors as for
    `lsgan_generator_loss`.

    Args:
        real_scores: (B, 1) float scores of real images.
        generated_scores: (N, 1) float scores of generated images, detached from the generator.

    Returns:
        Scalar of 0 or more; 2 if the discriminator cannot tell them apart.

    Examples:
        >>> import torch
        >>> from train_generator.losses.functional import hinge_discriminator_loss
        >>> hinge_discriminator_loss(torch.tensor([[2.0], [0.5]]), torch.tensor([[-0.5]])).item()
        0.75
    """
    require_floats("real_scores", real_scores)
    require_floats("generated_scores", generated_scores)
    return (1 - real_scores).relu().mean() + (1 + generated_scores).relu().mean()


def mask_border_loss(mask: Tensor, border: int) -> Tensor:
    """Returns how much the mask covers the image's edge: objects are in the centre.

    The mean of the mask over the pixels less than `border` pixels from the edge.

    Args:
        mask: (B, 1, H, W) float in [0, 1]; range checked as for `mask_entropy_loss`.
        border: width in pixels, at least 1 and less than half of the shorter side.

    Returns:
        Scalar in [0, 1].

    Raises:
        ArgumentError: the mask has another shape, is empty or has values outside [0, 1]; or border
            does not fit.
        ArgumentTypeError: the mask is not floating point.

    Examples:
        >>> import torch
        >>> from train_generator.losses.functional import mask_border_loss
        >>> mask = torch.zeros(1, 1, 4, 4)
        >>> mask[..., 0, :] = 1  # 4 of the 12 pixels of the edge
        >>> round(mask_border_loss(mask, border=1).item(), 4)
        0.3333
    """
    _require_mask(mask, images=True)
    height, width = mask.shape[2:]
    if not 1 <= border < min(height, width) / 2:
        raise ArgumentError(
            f"border must be 1 or more and less than half of {min(height, width)}, got {border}"
        )
    inside = mask[..., border:-border, border:-border]
    num_pixels = mask[:, 0].numel() - inside[:, 0].numel()
    return (mask.sum() - inside.sum()) / num_pixels


def mask_entropy_loss(mask: Tensor) -> Tensor:
    """Returns how undecided a mask is (paper, section 3, binary L_shape).

    The mean over all pixels of their binary entropy in bits, -m log2(m) - (1 - m) log2(1 - m):
    0 for a mask of zeros and ones, 1 for a mask of halves. At exactly 0 or 1 the gradient of the
    entropy is infinite. Here the logarithms stop at the dtype's epsilon, so the gradient ends at
    about 24 in float32 and 53 in float64, and still points to the nearer end.

    Args:
        mask: (B, 1, H, W) float in [0, 1]; other shapes work too. The range is checked only on a
            CPU, since reading values would stall a GPU.

    Returns:
        Scalar in [0, 1], in bits.

    Raises:
        ArgumentError: the mask is empty, or has values outside [0, 1].
        ArgumentTypeError: the mask is not floating point.

    Examples:
        >>> import torch
        >>> from train_generator.losses.functional import mask_entropy_loss
        >>> mask_entropy_loss(torch.tensor([0.0, 0.5, 1.0, 0.5])).item()
        0.5
    """
    _require_mask(mask)
    smallest = torch.finfo(mask.dtype).eps
    rest = 1 - mask
    bits = mask * mask.clamp(min=smallest).log2() + rest * rest.clamp(min=smallest).log2()
    return -bits.mean()


def mask_size_loss(mask: Tensor, low: float = 0.1, high: float = 0.9) -> Tensor:
    """Returns how far a mask's size is outside [low, high] (paper, section 3, L_mask).

    For each image max(0, low - mean) + max(0, mean - high), where mean is the share of the image
    that its mask covers; then the mean over the batch. It keeps the mask from covering nothing or
    everything, which would have no entropy.

    Args:
        mask: (B, 1, H, W) float in [0, 1]; range checked as for `mask_entropy_loss`.
        low: smallest share of an image that costs nothing, in [0, high].
        high: largest share that costs nothing, in [low, 1].

    Returns:
        Scalar in [0, max(low, 1 - high)].

    Raises:
        ArgumentError: the mask has another shape, is empty or has values outside [0, 1]; or low and
            high do not fit.
        ArgumentTypeError: the mask is not floating point.

    Examples:
        >>> import torch
        >>> from train_generator.losses.functional import mask_size_loss
        >>> masks = torch.stack([torch.full((1, 4, 4), 0.5), torch.ones(1, 4, 4)])
        >>> round(mask_size_loss(masks).item(), 4)  # nothing for the first, 0.1 for the second
        0.05
    """
    _require_mask(mask, images=True)
    if not 0 <= low <= high <= 1:
        raise ArgumentError(f"low and high must be 0 <= low <= high <= 1, got {low} and {high}")
    means = mask.mean(dim=(1, 2, 3))
    return ((low - means).relu() + (means - high).relu()).mean()


def kl_loss(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Returns the divergence of codes from standard normal noise (Kingma and Welling, appendix B).

    Args:
        mean: (B, D) float.
        log_variance: (B, D) float.

    Returns:
        Scalar of 0 or more: the sum over D, in nats, and the mean over the batch.

    Examples:
        >>> import torch
        >>> from train_generator.losses.functional import kl_loss
        >>> kl_loss(torch.ones(3, 4), torch.zeros(3, 4)).item()  # 4 / 2
        2.0
    """
    each = mean.square() + log_variance.exp() - log_variance - 1
    return each.sum(dim=1).mean() / 2


def gram_matrix(features: Tensor) -> Tensor:
    """Returns how strongly channels are active together, at any position: it describes a texture.

    Entry (i, j) is the sum over all positions of channel i times channel j, divided by C * H * W
    (Johnson et al., Perceptual Losses for Real-Time Style Transfer, ECCV 2016).

    Args:
        features: (B, C, H, W) float, any range.

    Returns:
        (B, C, C), symmetric and positive semidefinite.

    Raises:
        ArgumentError: features have another shape, or are empty.
        ArgumentTypeError: features are not floating point.

    Examples:
        >>> import torch
        >>> from train_generator.losses.functional import gram_matrix
        >>> gram_matrix(torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)).tolist()
        [[[0.5, 1.5], [1.5, 4.5]]]
    """
    require_floats("features", features)
    if features.dim() != 4:
        raise ArgumentError(
            f"features must have the shape (B, C, H, W), got {tuple(features.shape)}"
        )
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / features[0].numel()


def require_floats(name: str, values: Tensor) -> None:
    """Raises unless the tensor is floating point and has elements.

    Args:
        name: name of the argument, for the message.
        values: the tensor.
    """
    if not values.is_floating_point():
        raise ArgumentTypeError(f"{name} must be floating point, got {values.dtype}")
    if values.numel() == 0:
        raise ArgumentError(f"{name} must not be empty, got the shape {tuple(values.shape)}")


def require_images(
    images: Tensor, channels: int = 3, least: int = 1, size: int | None = None
) -> None:
    """Raises unless these are floating-point images (B, channels, H, W) of a suitable size.

    Args:
        images: the tensor.
        channels: number of channels.
        least: smallest height and width.
        size: exact height and width, or None.
    """
    if size is None:
        wanted = f"(B, {channels}, H, W) with H and W of {least} or more"
        fits = images.dim() == 4 and images.shape[1] == channels and min(images.shape[2:]) >= least
    else:
        wanted = f"(B, {channels}, {size}, {size})"
        fits = images.dim() == 4 and images.shape[1:] == (channels, size, size)
    if not fits:
        raise ArgumentError(f"images must have the shape {wanted}, got {tuple(images.shape)}")
    if not images.is_floating_point():
        raise ArgumentTypeError(
            f"images must be floating point in [-1, 1], got {images.dtype}: scale them first"
        )


def _require_mask(mask: Tensor, images: bool = False) -> None:
    require_floats("mask", mask)
    if images and mask.dim() != 4:
        raise ArgumentError(f"mask must have the shape (B, 1, H, W), got {tuple(mask.shape)}")
    if mask.device.type != "cpu":
        return
    least, most = mask.detach().aminmax()
    if not (least >= 0 and most <= 1):  # an error for NaN too
        raise ArgumentError(
            f"mask must be in [0, 1], got {float(least):g} to {float(most):g}: clamp it first"
        )
