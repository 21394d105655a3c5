"""Twenty procedural textures: ten striped, ten veined, similar to DTD's photographs.

The wildlife variant of Sauer and Geiger (ICLR 2021, appendix) takes its textures from two classes
of the Describable Textures Dataset. Those photographs may not be shipped; these textures can. All
lengths are in pixels, so a larger texture shows more of the pattern, not larger stripes. Each
texture can be recognised from a 32x32 crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Stripes:
    """A striped texture.

    Attributes:
        dark: hex colour of the stripes.
        light: hex colour of the ground between them.
        period: pixels from one stripe to the next.
        angle: direction across the stripes, in degrees; 0 makes upright stripes.
        share: share of the period that the stripe covers.
        softness: width of the stripe's edge as a share of the wave's amplitude.
        bend: pixels by which the stripes wander.
        forks: 0 for continuous stripes; else the spread of directions in degrees, which makes
            stripes end and fork like a zebra's.
        rings: stripes are rings about a point outside the texture.
        accent: hex colour of a thin line along the middle of the ground, or None.
        fur: strength of the grain, which runs along the stripes.
    """

    dark: str
    light: str
    period: float
    angle: float
    share: float = 0.5
    softness: float = 0.3
    bend: float = 2.0
    forks: float = 0.0
    rings: bool = False
    accent: str | None = None
    fur: float = 0.06


@dataclass(frozen=True)
class Cells:
    """Veins along the borders of irregular cells, `size` pixels each (Voronoi cells)."""

    size: float
    width: float
    color: str
    shade: float = 0.0  # how far the cells differ in brightness


@dataclass(frozen=True)
class Ridges:
    """Veins along the zero line of smooth noise; `stretch` > 1 draws them out along `angle`."""

    wavelength: float
    width: float
    color: str
    angle: float = 0.0
    stretch: float = 1.0


@dataclass(frozen=True)
class Veins:
    """A veined texture: a mottled ground of two hex colours under layers of veins."""

    ground: tuple[str, str]
    layers: tuple[Cells | Ridges, ...]
    mottle: float = 40.0  # pixels


STRIPED = (
    Stripes("#4a130a", "#e8d9a0", 15, 25, share=0.68, softness=0.15, rings=True, bend=3),
    Stripes("#f5a800", "#dfeaf5", 19, 60, share=0.4, softness=0.25, bend=3),
    Stripes("#331506", "#d9832a", 12, 5, share=0.3, softness=0.5, forks=14, fur=0.1),
    Stripes("#14060c", "#ee3f74", 14, 75, share=0.5, softness=0.12, forks=32, fur=0.03),
    Stripes("#2f6fe0", "#a5cf35", 13, 110, share=0.45, softness=0.6, bend=3, accent="#c8f0ff"),
    Stripes("#0b0b0b", "#f4f1ea", 10, 140, share=0.52, softness=0.15, forks=18, fur=0.03),
    Stripes("#c8102e", "#fff6f0", 12, 45, share=0.5, softness=0.08, bend=0.6, fur=0.02),
    Stripes("#9a5a12", "#7d93b8", 24, 170, share=0.36, softness=0.2, bend=2, accent="#dfe8f6"),
    Stripes("#b06f5f", "#e6cdb2", 17, 0, share=0.5, softness=0.12, bend=0.5, fur=0.07),
    Stripes("#0d0d0a", "#f7dc00", 21, 90, share=0.5, softness=0.5, bend=4, fur=0.16),
)

VEINED = (
    Veins(
        ("#3f9a12", "#63bf1e"),
        (Cells(8, 1.3, "#a5e04e"), Cells(38, 2.6, "#e2f59a")),
    ),
    Veins(
        ("#4d0f14", "#631a1c"),
        (Ridges(9, 1.2, "#7d3433"), Ridges(20, 2.6, "#a85f5a")),
    ),
    Veins(
        ("#57807b", "#86aba3"),
        (Cells(15, 2.4, "#14302f", shade=0.3), Ridges(12, 1.1, "#c9e2d8", 30, 2.5)),
    ),
    Veins(
        ("#9fdc5a", "#c4ee83"),
        (Cells(13, 1.2, "#7b2a48"), Ridges(26, 2.8, "#7a0f3c", 60, 2)),
    ),
    Veins(
        ("#b0391a", "#7f230e"),
        (Cells(7, 0.8, "#c4693a"), Cells(26, 1.7, "#f2d39a")),
    ),
    Veins(
        ("#6f7d16", "#b9b23a"),
        (Cells(11, 1.8, "#1c1805", shade=0.15),),
        mottle=25,
    ),
    Veins(
        ("#432b86", "#6645a8"),
        (Ridges(7, 1.2, "#2c1a5e", 100, 5), Ridges(16, 1.6, "#c9b6f2", 100, 5)),
    ),
    Veins(
        ("#14401f", "#2b6a35"),
        (Cells(9, 1.2, "#0a2410", shade=0.25), Ridges(20, 3.0, "#8c2f4c", 130, 2)),
    ),
    Veins(
        ("#1f9fc4", "#2fb6d6"),
        (Cells(5.5, 0.9, "#157d9f"), Cells(34, 2.8, "#4a5560")),
    ),
    Veins(
        ("#122a52", "#1d4468"),
        (Ridges(8, 1.0, "#5f86a8", 40, 2), Ridges(26, 1.6, "#c9dfe8", 40, 2)),
    ),
)


@lru_cache(maxsize=4)
def draw(textures: tuple[Stripes | Veins, ...], seed: int, size: int) -> npt.NDArray[np.float32]:
    """Draws textures. The array is kept for the next call: copy it before you write to it.

    Args:
        textures: what to draw.
        seed: 0 or more; each texture has its own random stream.
        size: side, in pixels.

    Returns:
        `(len(textures), 3, size, size) float32 in [0, 1]`.
    """
    drawn = []
    for index, texture in enumerate(textures):
        rng = np.random.default_rng([seed, index, int(isinstance(texture, Veins))])
        if isinstance(texture, Stripes):
            image = _draw_stripes(texture, rng, size)
        else:
            image = _draw_veins(texture, rng, size)
        image *= (
            1 + 0.06 * _noise(rng, size, _blur(size, 30)) + 0.03 * rng.normal(size=(size, size))
        )
        drawn.append(np.clip(image, 0, 1).astype(np.float32))
    return np.stack(drawn)


def _draw_stripes(stripes: Stripes, rng: np.random.Generator, size: int) -> Array:
    wave = _forked_wave(stripes, rng, size) if stripes.forks else _wave(stripes, rng, size)
    threshold = np.quantile(wave, stripes.share)
    ground = _smoothstep((wave - threshold) / stripes.softness)
    image = _mix(_rgb(stripes.dark), _rgb(stripes.light), ground)
    if stripes.accent is not None:
        line = _smoothstep((wave - np.quantile(wave, 0.85)) / 0.15)
        image = _mix(image, _rgb(stripes.accent), line)
    grain = _noise(rng, size, _blur(size, 1.2, stripes.angle + 90, 5))
    return image * (1 + stripes.fur * grain)


def _wave(stripes: Stripes, rng: np.random.Generator, size: int) -> Array:
    y, x = np.mgrid[:size, :size].astype(np.float64)
    angle = np.deg2rad(stripes.angle)
    if stripes.rings:
        x, y = x + 0.3 * size, y + 0.2 * size
        across = np.hypot(x, y)
    else:
        across = x * np.cos(angle) + y * np.sin(angle)
    across += stripes.bend * _noise(rng, size, _blur(size, 1.6 * stripes.period))
    wave: Array = np.sin(2 * np.pi * (across / stripes.period + rng.uniform()))
    return wave


def _forked_wave(stripes: Stripes, rng: np.random.Generator, size: int) -> Array:
    """Returns noise of one wavelength and nearly one direction: stripes that end and fork."""
    ky, kx = _frequencies(size)
    radius = np.hypot(kx, ky) * stripes.period
    turn = (np.arctan2(ky, kx) - np.deg2rad(stripes.angle) + np.pi / 2) % np.pi - np.pi / 2
    spread = np.deg2rad(stripes.forks)
    band = np.exp(-0.5 * ((radius - 1) / 0.16) ** 2 - 0.5 * (turn / spread) ** 2)
    # Without this limit the stripes would fade wherever the noise is weak.
    return np.tanh(1.5 * _noise(rng, size, band))


def _draw_veins(veins: Veins, rng: np.random.Generator, size: int) -> Array:
    mottle = _smoothstep(0.5 + 0.5 * _noise(rng, size, _blur(size, veins.mottle / 3)))
    image = _mix(_rgb(veins.ground[0]), _rgb(veins.ground[1]), mottle)
    for layer in veins.layers:
        if isinstance(layer, Cells):
            distance, brightness = _cells(layer.size, rng, size)
            image = image * (1 + layer.shade * brightness)
        else:
            distance = _ridges(layer, rng, size)
        swell = 1 + 0.25 * _noise(rng, size, _blur(size, 12))
        cover = _smoothstep(0.5 + layer.width * swell / 2 - distance)
        image = _mix(image, _rgb(layer.color), cover)
    return image


def _cells(cell: float, rng: np.random.Generator, size: int) -> tuple[Array, Array]:
    """Returns the distance to the nearest border of a Voronoi cell, and a brightness per cell."""
    num = int(np.ceil(size / cell)) + 6
    grid = np.stack(np.meshgrid(np.arange(num), np.arange(num), indexing="ij"), axis=-1)
    points = (grid - 3 + rng.uniform(0.05, 0.95, size=grid.shape)) * cell
    brightness = rng.uniform(-1, 1, size=(num, num))
    y, x = np.mgrid[:size, :size].astype(np.float64)
    # Veins wander; without this the borders would be ruler-straight.
    y = y + 0.08 * cell * _noise(rng, size, _blur(size, cell / 4))
    x = x + 0.08 * cell * _noise(rng, size, _blur(size, cell / 4))
    row, column = (y // cell).astype(int) + 3, (x // cell).astype(int) + 3
    # The two nearest points of a jittered grid are at most two cells from the pixel's own.
    dy, dx = (offset.reshape(-1, 1, 1) for offset in np.mgrid[-2:3, -2:3])
    row = np.clip(row + dy, 0, num - 1)
    column = np.clip(column + dx, 0, num - 1)
    near = points[row, column]
    squared = (near[..., 0] - y) ** 2 + (near[..., 1] - x) ** 2
    first, second = np.argsort(squared, axis=0)[:2]
    gap = np.hypot(
        _pick(near[..., 0], second) - _pick(near[..., 0], first),
        _pick(near[..., 1], second) - _pick(near[..., 1], first),
    )
    border = (_pick(squared, second) - _pick(squared, first)) / (2 * gap)
    return border, _pick(brightness[row, column], first)


def _pick(values: Array, index: npt.NDArray[np.intp]) -> Array:
    """Returns, of `values (K, H, W)`, the one that `index (H, W)` names at each pixel."""
    picked: Array = np.take_along_axis(values, index[None], axis=0)[0]
    return picked


def _ridges(ridges: Ridges, rng: np.random.Generator, size: int) -> Array:
    """Returns the first-order distance, in pixels, to the zero line of smooth noise."""
    blur = _blur(size, ridges.wavelength / 4, ridges.angle, ridges.stretch)
    noise = _noise(rng, size, blur)
    slope = np.hypot(*np.gradient(noise))
    distance: Array = np.abs(noise) / (slope + 1e-3)
    return distance


def _frequencies(size: int) -> tuple[Array, Array]:
    """Returns vertical and horizontal frequencies in cycles per pixel, ordered as `np.fft.fft2`."""
    frequency: Array = np.fft.fftfreq(size).astype(np.float64)
    return frequency[:, None], frequency[None, :]


def _blur(size: int, sigma: float, angle: float = 0.0, stretch: float = 1.0) -> Array:
    """Returns the spectrum of a Gaussian blur of `sigma` pixels, stretched along `angle`."""
    ky, kx = _frequencies(size)
    turn = np.deg2rad(angle)
    along = (kx * np.cos(turn) + ky * np.sin(turn)) * stretch
    across = -kx * np.sin(turn) + ky * np.cos(turn)
    response: Array = np.exp(-2 * (np.pi * sigma) ** 2 * (along**2 + across**2))
    return response


def _noise(rng: np.random.Generator, size: int, spectrum: Array) -> Array:
    """Returns white noise filtered by this spectrum, with mean 0 and variance 1."""
    white = np.fft.fft2(rng.normal(size=(size, size)))
    noise: Array = np.fft.ifft2(white * spectrum).real
    noise -= noise.mean()
    noise /= noise.std()
    return noise


def _smoothstep(value: Array) -> Array:
    value = np.clip(value, 0, 1)
    return value * value * (3 - 2 * value)


def _rgb(color: str) -> Array:
    """Returns a hex colour as `(3, 1, 1)`, in [0, 1]."""
    channels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    return np.array(channels).reshape(3, 1, 1)


def _mix(below: Array, above: Array, cover: Array) -> Array:
    return below + cover * (above - below)
