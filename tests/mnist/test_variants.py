"""The MNIST variants: digits, textures and rendering."""

from __future__ import annotations

import gzip
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SHARED, load_tool
from PIL import Image
from torchvision.transforms import functional as vision

from cgn_augment.errors import ArgumentError, DataError
from train_generator.mnist import (
    VARIANTS,
    Textures,
    VariantData,
    dtd_textures,
    load_digits,
    load_textures,
    make_variant,
    procedural_textures,
    render_colored,
    render_wildlife,
)
from train_generator.mnist import digits as digits_module
from train_generator.mnist.render import (
    BACKGROUND_PALETTE,
    COLORED_PALETTE,
    OBJECT_PALETTE,
    draw_colors,
    draw_crops,
    render_double_colored,
)
from train_generator.mnist.textures import DTD_BACKGROUND_FILES, DTD_OBJECT_FILES

SHARED_DATA = SHARED / "data"
RAW = SHARED_DATA / "mnist_gz"
PHOTOGRAPHS = SHARED_DATA / "textures"

needs_mnist = pytest.mark.skipif(not RAW.is_dir(), reason="MNIST's IDX files are not here")
needs_photographs = pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="no DTD images here")


@pytest.fixture(scope="module")
def textures() -> Textures:
    return procedural_textures()


@pytest.fixture(scope="module")
def tests_of(textures: Textures) -> dict[str, VariantData]:
    return {name: make_variant(name, "test") for name in VARIANTS}


@pytest.fixture(scope="module")
def pack_digits() -> ModuleType:
    return load_tool("pack_digits")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def full_masks(num: int) -> torch.Tensor:
    return torch.ones(num, 1, 32, 32, dtype=torch.bool)


def colors_of(images: torch.Tensor) -> torch.Tensor:
    """The colours `(N, 3) in [0, 1]` of images of one colour each."""
    assert torch.equal(images, images[:, :, :1, :1].expand_as(images))
    return (images[:, :, 0, 0] + 1) / 2


def make_folder(folder: Path, names: dict[str, list[str]]) -> Path:
    """A texture folder whose images are random noise, each another one."""
    rng = np.random.default_rng(0)
    for kind, files in names.items():
        (folder / kind).mkdir(parents=True)
        for name in files:
            pixels = rng.integers(0, 256, size=(40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / kind / name, quality=95)
    return folder


def numbered(num: int = 10) -> dict[str, list[str]]:
    return {kind: [f"{i}_{kind}.png" for i in range(num)] for kind in ("object", "background")}


# Digits


@pytest.mark.parametrize(("split", "num"), [("train", 50_000), ("test", 10_000)])
def test_each_split_has_the_protocols_size_and_types(split: str, num: int) -> None:
    digits = load_digits(split)
    assert len(digits) == num
    assert digits.masks.shape == (num, 1, 32, 32)
    assert digits.masks.dtype == torch.bool
    assert digits.masks.is_contiguous()
    assert digits.labels.shape == (num,)
    assert digits.labels.dtype == torch.int64
    assert digits.labels.unique().tolist() == list(range(10))


@needs_mnist
@pytest.mark.parametrize(("split", "part"), [("train", slice(500)), ("test", slice(50_000, None))])
def test_digits_are_the_protocols_resize_then_binarise(
    split: str, part: slice, pack_digits: ModuleType
) -> None:
    raw = pack_digits.read_idx(RAW / "train-images-idx3-ubyte.gz")[part]
    labels = pack_digits.read_idx(RAW / "train-labels-idx1-ubyte.gz")[part]
    images = torch.from_numpy(raw.copy()).float()[:, None] / 255
    digits = load_digits(split, num=len(images))
    assert torch.equal(digits.masks, F.interpolate(images, size=32, mode="nearest") > 0.1)
    nearest = vision.InterpolationMode.NEAREST
    assert torch.equal(digits.masks, vision.resize(images, [32, 32], nearest) > 0.1)
    assert digits.labels.tolist() == labels.tolist()


@needs_mnist
def test_packing_mnist_gives_what_is_shipped(pack_digits: ModuleType) -> None:
    with np.load(digits_module.DIGITS_FILE) as shipped:
        bits, labels = shipped["bits"], shipped["labels"]
    images = pack_digits.read_idx(RAW / "train-images-idx3-ubyte.gz")
    np.testing.assert_array_equal(pack_digits.pack(images), bits)
    np.testing.assert_array_equal(pack_digits.read_idx(RAW / "train-labels-idx1-ubyte.gz"), labels)


def test_the_same_digits_are_packed_into_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack_digits: ModuleType
) -> None:
    for name, shape in (("images-idx3", (5, 28, 28)), ("labels-idx1", (5,))):
        header = np.array([0x0800 + len(shape), *shape], dtype=">u4").tobytes()
        content = header + bytes(range(5)) * (np.prod(shape) // 5)
        (tmp_path / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(content))
    written = [tmp_path / name for name in ("first.npz", "second.npz")]
    for path in written:
        monkeypatch.setattr("sys.argv", ["pack_digits.py", str(tmp_path), "--output", str(path)])
        pack_digits.main()
    assert written[0].read_bytes() == written[1].read_bytes()
    with np.load(written[0]) as packed:
        assert packed["bits"].shape == (5, 98)
        assert packed["labels"].tolist() == [0, 1, 2, 3, 4]


def test_packing_stops_on_missing_and_damaged_files(
    tmp_path: Path, pack_digits: ModuleType
) -> None:
    with pytest.raises(SystemExit, match="missing: give the folder"):
        pack_digits.read_idx(tmp_path / "nothing")
    damaged = tmp_path / "damaged"
    for content, message in (
        (b"not compressed", "cannot be unpacked: fetch it again"),
        (gzip.compress(b"0" * 99)[:-9], "cannot be unpacked: fetch it again"),
        (gzip.compress(b""), "not an IDX file"),
        (gzip.compress(b"\x00\x00\x08\x03\x00"), "not an IDX file"),
        (gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x05abc"), "cut short: 3 bytes"),
    ):
        damaged.write_bytes(content)
        with pytest.raises(SystemExit, match=message):
            pack_digits.read_idx(damaged)


@pytest.mark.parametrize("num", [0, 10_001])
def test_a_number_of_digits_that_the_split_lacks_is_an_error(num: int) -> None:
    with pytest.raises(ArgumentError, match=f"num must be 1 to 10000 .* got {num}"):
        make_variant("colored", "test", num=num)


def test_a_missing_digits_file_says_how_to_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digits_module, "DIGITS_FILE", tmp_path / "digits.npz")
    with pytest.raises(DataError, match=r"is missing: reinstall .* tools/pack_digits.py"):
        load_digits("train")


# Textures


def test_procedural_textures_have_the_documented_form(textures: Textures) -> None:
    for stack in (textures.object, textures.background):
        assert stack.shape == (10, 3, 150, 150)
        assert stack.dtype == torch.float32
        assert stack.min() >= 0
        assert stack.max() <= 1
    assert procedural_textures(size=64).object.shape == (10, 3, 64, 64)


def test_procedural_textures_follow_the_seed_alone(textures: Textures) -> None:
    np.random.seed(1)  # noqa: NPY002 - to show that the global state has no say
    torch.manual_seed(1)
    again, other = procedural_textures(0), procedural_textures(1)
    assert torch.equal(again.object, textures.object)
    assert torch.equal(again.background, textures.background)
    assert not torch.equal(other.object, textures.object)
    assert not torch.equal(other.background, textures.background)


def crop_statistics(stack: torch.Tensor, seed: int) -> torch.Tensor:
    """Per-channel mean, 10th and 90th percentile of 50 crops of each texture, `(500, 9)`."""
    classes = torch.arange(10).repeat_interleave(50)
    pair = Textures(stack, stack)
    crops = render_wildlife(full_masks(500), classes, classes, pair, generator(seed)).flatten(2)
    low, high = crops.sort(2).values[:, :, [102, 921]].unbind(2)
    return torch.cat([crops.mean(2), low, high], dim=1)


def test_each_texture_is_told_from_a_crop(textures: Textures) -> None:
    """A nearest-mean rule on colour statistics separates all twenty, for new crops too."""
    stacks = (textures.object, textures.background)
    known, new = (torch.cat([crop_statistics(s, seed) for s in stacks]) for seed in (0, 1))
    means = known.view(20, 50, 9).mean(1)
    nearest = torch.cdist(new, means).argmin(1)
    assert (nearest == torch.arange(20).repeat_interleave(50)).float().mean() > 0.95


def test_textures_have_structure_and_not_only_a_colour(textures: Textures) -> None:
    crops = torch.cat([textures.object, textures.background]).unfold(2, 32, 16).unfold(3, 32, 16)
    contrast = crops.std((-1, -2)).amax(1)  # per crop, of the channel that varies most
    assert contrast.amin() > 0.03


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"size": 31}, "size must be 32 or more, got 31"),
    ],
)
def test_procedural_textures_refuse_bad_arguments(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        procedural_textures(**arguments)


@pytest.mark.parametrize(
    ("stack", "message"),
    [
        (torch.zeros(9, 3, 40, 40), r"object textures must be \(10, 3, H, W\).* \(9, 3, 40, 40\)"),
        (torch.zeros(10, 3, 40, 40).double(), "got .* torch.float64"),
        (torch.zeros(10, 3, 31, 40), "at least 32x32 pixels; got 31x40"),
        (torch.full((10, 3, 40, 40), 255.0), r"lie in \[0, 1\]; got 255 to 255: rescale"),
        (torch.full((10, 3, 40, 40), torch.nan), "got nan to nan"),
    ],
)
def test_a_texture_stack_of_another_form_is_an_error(stack: torch.Tensor, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Textures(stack, torch.zeros(10, 3, 40, 40))


def test_a_texture_folder_is_read_by_name_and_resized(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, numbered())
    (folder / "object" / "notes.txt").write_text("not an image")
    loaded = load_textures(folder)
    assert loaded.object.shape == loaded.background.shape == (10, 3, 150, 150)
    # 40x50 to 150x150 copies pixels; corners stay corners.
    last = np.asarray(Image.open(folder / "background" / "9_background.png")) / np.float32(255)
    corners = loaded.background[9][:, [0, -1]][:, :, [0, -1]].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(corners, last[[0, -1]][:, [0, -1]])
    assert not torch.equal(loaded.object[0], loaded.object[1])


def test_a_texture_folder_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*object"):
        load_textures(tmp_path)
    with pytest.raises(DataError, match=r"holds 9 images .*, and 10 or more are needed"):
        load_textures(make_folder(tmp_path / "few", numbered(9)))
    folder = make_folder(tmp_path / "damaged", numbered())
    (folder / "object" / "3_object.png").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"3_object\.png cannot be read as an image: replace"):
        load_textures(folder)


def test_dtd_textures_are_picked_by_name(tmp_path: Path) -> None:
    extra = {"striped": [*DTD_OBJECT_FILES, "striped_0002.jpg"], "veined": [*DTD_BACKGROUND_FILES]}
    images = make_folder(tmp_path / "dtd" / "dtd" / "images", extra)
    picked = dtd_textures(tmp_path)
    flat = tmp_path / "flat"
    for kind, source, names in (
        ("object", "striped", DTD_OBJECT_FILES),
        ("background", "veined", DTD_BACKGROUND_FILES),
    ):
        (flat / kind).mkdir(parents=True)
        for label, name in enumerate(names):
            (flat / kind / f"{label}_{name}").write_bytes((images / source / name).read_bytes())
    loaded = load_textures(flat)
    assert torch.equal(picked.object, loaded.object)
    assert torch.equal(picked.background, loaded.background)


@needs_photographs
def test_the_names_of_the_papers_textures_are_those_of_its_release() -> None:
    for kind, names in (("object", DTD_OBJECT_FILES), ("background", DTD_BACKGROUND_FILES)):
        found = sorted(path.name for path in (PHOTOGRAPHS / kind).iterdir())
        assert found == [f"{label}_{name}" for label, name in enumerate(names)]
    assert load_textures(PHOTOGRAPHS).object.shape == (10, 3, 150, 150)


def test_dtd_that_is_missing_or_cannot_be_fetched_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="is missing: pass download=True"):
        dtd_textures(tmp_path)
    (tmp_path / "dtd" / "dtd" / "images").mkdir(parents=True)
    with pytest.raises(DataError, match=r"striped_0001\.jpg cannot be read as an image"):
        dtd_textures(tmp_path)

    def refuse(root: str, download: bool) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("train_generator.mnist.textures.DTD", refuse)
    with pytest.raises(DataError, match=r"could not be downloaded .* no route to host; check"):
        dtd_textures(tmp_path, download=True)


# Variants


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_have_the_documented_form(variant: str, tests_of: dict[str, VariantData]) -> None:
    data = tests_of[variant]
    assert len(data) == 10_000
    assert data.images.shape == (10_000, 3, 32, 32)
    assert data.images.dtype == torch.float32
    assert data.images.is_contiguous()
    assert data.images.min() >= -1
    assert data.images.max() <= 1
    assert data.masks.shape == (10_000, 1, 32, 32)
    assert data.masks.dtype == data.visible.dtype == torch.bool
    for classes in (data.labels, data.object_class, data.background_class):
        assert classes.shape == (10_000,)
        assert classes.dtype == torch.int64
    assert torch.equal(data.labels, load_digits("test").labels)
    images, labels = data.dataset()[:5]
    assert torch.equal(images, data.images[:5])
    assert torch.equal(labels, data.labels[:5])


@pytest.mark.parametrize("variant", VARIANTS)
def test_in_training_the_class_fixes_colour_and_texture(variant: str) -> None:
    data = make_variant(variant, "train", num=500)
    assert torch.equal(data.object_class, data.labels)
    expected = torch.full_like(data.labels, -1) if variant == "colored" else data.labels
    assert torch.equal(data.background_class, expected)
    assert data.visible.all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_in_the_test_set_factors_are_uniform_and_independent(
    variant: str, tests_of: dict[str, VariantData]
) -> None:
    data = tests_of[variant]
    pairs = [(data.labels, data.object_class)]
    if variant != "colored":
        pairs += [
            (data.labels, data.background_class),
            (data.object_class, data.background_class),
        ]
    for first, second in pairs:
        counts = torch.bincount(first * 10 + second, minlength=100).view(10, 10).double()
        expected = counts.sum(1, keepdim=True) / 10
        # About 90 degrees of freedom: 150 is 4.5 standard deviations above the mean.
        assert ((counts - expected) ** 2 / expected).sum() < 150


def test_decorrelated_overrides_the_splits_default() -> None:
    free = make_variant("double_colored", "train", num=2000, decorrelated=True)
    assert 0.05 < (free.object_class == free.labels).float().mean() < 0.15
    bound = make_variant("double_colored", "test", num=50, decorrelated=False)
    assert torch.equal(bound.object_class, bound.labels)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_seed_decides_everything_and_global_randomness_nothing(variant: str) -> None:
    numpy_state, torch_state = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    first = make_variant(variant, "test", num=200, seed=3)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state[1])  # noqa: NPY002
    torch.manual_seed(99)
    again, other = (make_variant(variant, "test", num=200, seed=seed) for seed in (3, 4))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.object_class, again.object_class)
    assert not torch.equal(first.images, other.images)
    assert not torch.equal(first.object_class, other.object_class)


def test_splits_and_variants_draw_different_numbers_from_one_seed() -> None:
    draws = [
        make_variant(variant, split, num=300, decorrelated=True).object_class.tolist()
        for variant in VARIANTS
        for split in ("train", "test")
    ]
    assert len({tuple(draw) for draw in draws}) == 6


def test_colored_digits_are_flat_on_black(tests_of: dict[str, VariantData]) -> None:
    data = tests_of["colored"]
    images, masks = data.images[:200], data.masks[:200].expand(-1, 3, -1, -1)
    assert (images[~masks] == -1).all()
    for image, mask in zip(images, masks, strict=True):
        assert all(len(image[c][mask[c]].unique()) == 1 for c in range(3))


def test_colored_jitters_the_class_colour_with_variance_0_02() -> None:
    # Class 4 has green at 124 of 255: three and a half deviations from either bound.
    classes = torch.full((5000,), 4)
    colors = colors_of(render_colored(full_masks(5000), classes, generator()))
    assert colors[:, 1].var().item() == pytest.approx(0.02, rel=0.07)
    expected = torch.tensor(COLORED_PALETTE[4]) / 255
    assert (colors.mean(0) - expected).abs().max() < 0.02  # clipping moves the outer channels


def test_double_colored_jitters_both_colours_with_variance_0_01() -> None:
    # Background 9 (#6495ed) has red at 100 and green at 149; object 5 wears the same colour.
    background = torch.full((5000,), 9)
    objects = (background + 6) % 10
    for masks in (full_masks(5000), ~full_masks(5000)):
        colors = colors_of(render_double_colored(masks, objects, background, generator()))
        assert colors[:, 0].var().item() == pytest.approx(0.01, rel=0.07)
        assert colors[:, 1].var().item() == pytest.approx(0.01, rel=0.07)
        assert colors[:, 0].mean().item() == pytest.approx(100 / 255, abs=0.005)
        assert colors[:, 1].mean().item() == pytest.approx(149 / 255, abs=0.005)
        correlation = torch.corrcoef(colors[:, :2].T)[0, 1].item()
        assert abs(correlation) < 0.06  # channels jitter on their own


@pytest.mark.parametrize("palette", [COLORED_PALETTE, BACKGROUND_PALETTE, OBJECT_PALETTE])
def test_colours_without_jitter_are_the_palette(
    palette: tuple[tuple[int, int, int], ...],
) -> None:
    colors = draw_colors(palette, torch.arange(10), 0.0, generator())
    assert (colors * 255).round().int().tolist() == [list(color) for color in palette]


def test_the_object_colour_of_class_i_is_background_colour_i_minus_6() -> None:
    assert all(OBJECT_PALETTE[i] == BACKGROUND_PALETTE[(i - 6) % 10] for i in range(10))
    data = make_variant("double_colored", "train", num=5000)
    for label in range(10):
        chosen = data.labels == label
        images, masks = data.images[chosen], data.masks[chosen].expand(-1, 3, -1, -1)
        wanted = ((masks, BACKGROUND_PALETTE[label - 6]), (~masks, BACKGROUND_PALETTE[label]))
        for part, expected in wanted:
            mean = (images * part).sum((0, 2, 3)) / part.sum((0, 2, 3))
            # Clipping pulls a channel at a bound inwards by 0.4 of a deviation.
            assert ((mean + 1) / 2 - torch.tensor(expected) / 255).abs().max() < 0.06


def test_a_tenth_of_double_colored_test_images_are_invisible(
    tests_of: dict[str, VariantData],
) -> None:
    data = tests_of["double_colored"]
    hidden = ~data.visible
    assert hidden.float().mean().item() == pytest.approx(0.1, abs=0.012)
    objects, backgrounds = torch.tensor(OBJECT_PALETTE), torch.tensor(BACKGROUND_PALETTE)
    same = (objects[data.object_class] == backgrounds[data.background_class]).all(1)
    assert torch.equal(hidden, same)
    assert tests_of["colored"].visible.all()
    assert tests_of["wildlife"].visible.all()


def test_wildlife_crops_come_from_the_reflected_texture_at_the_drawn_place(
    textures: Textures,
) -> None:
    classes = torch.arange(10).repeat(5)
    images = render_wildlife(full_masks(50), classes, classes, textures, generator(7))
    tops, lefts = draw_crops(textures.object, classes, generator(7))
    padded = np.pad(textures.object.numpy(), [(0, 0), (0, 0), (3, 3), (3, 3)], mode="reflect")
    for image, label, top, left in zip(images, classes, tops, lefts, strict=True):
        crop = padded[label, :, top : top + 32, left : left + 32]
        np.testing.assert_allclose(image.numpy(), crop * 2 - 1, atol=1e-6)


def test_wildlife_crops_reach_every_border_of_the_padded_texture(textures: Textures) -> None:
    tops, lefts = draw_crops(textures.object, torch.zeros(20_000, dtype=torch.int64), generator())
    for places in (tops, lefts):
        assert places.unique().tolist() == list(range(156 - 32 + 1))


def test_wildlife_takes_object_and_background_from_their_own_stacks() -> None:
    ramp = (torch.arange(10) / 10).view(10, 1, 1, 1).expand(10, 3, 40, 40).contiguous()
    flat = Textures(ramp, ramp / 2)
    data = make_variant("wildlife", "test", num=100, textures=flat)
    inside = data.object_class.view(-1, 1, 1, 1) / 10
    outside = data.background_class.view(-1, 1, 1, 1) / 20
    expected = torch.where(data.masks, inside, outside).expand(-1, 3, -1, -1) * 2 - 1
    torch.testing.assert_close(data.images, expected)


def test_wildlife_uses_procedural_textures_unless_told_otherwise(textures: Textures) -> None:
    assert torch.equal(
        make_variant("wildlife", "test", num=20).images,
        make_variant("wildlife", "test", num=20, textures=textures).images,
    )


def test_unknown_variants_splits_and_seeds_are_errors() -> None:
    with pytest.raises(ArgumentError, match=r"variant must be one of colored, .* got 'mnist'"):
        make_variant("mnist", "train")
    with pytest.raises(ArgumentError, match="split must be one of train, test, got 'val'"):
        make_variant("colored", "val")
    with pytest.raises(ArgumentError, match="seed must be 0 or more, got -2"):
        make_variant("colored", "train", seed=-2)


@pytest.mark.parametrize("variant", ["colored", "double_colored"])
def test_textures_for_a_variant_without_any_are_an_error(variant: str, textures: Textures) -> None:
    with pytest.raises(ArgumentError, match=f"wildlife only; {variant} has colours"):
        make_variant(variant, "train", textures=textures)
