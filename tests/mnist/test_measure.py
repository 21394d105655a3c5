"""Measuring generators: perfect, broken and published ones; and the commands."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from cgn_augment import load_cgn
from cgn_augment.errors import ArgumentError, FileError
from cgn_augment.generators import SmallCGN
from train_generator.cli import mnist as commands
from train_generator.mnist import (
    AppearanceJudge,
    JudgeConfig,
    Judges,
    ShapeJudge,
    load_digits,
    load_shape_judge,
    make_variant,
    measure_digits,
    measure_generator,
    metrics_table,
    procedural_textures,
    render_factor,
    train_appearance_judge,
    training,
)
from train_generator.mnist.measure import balanced_digits
from train_generator.mnist.pictures import draw_generators

NUM = 200


class Perfect:
    """Draws real test digits in the true colours of double colored MNIST."""

    num_classes, image_size, shared_noise = 10, 32, False
    device, fingerprint = torch.device("cpu"), "perfect"

    def __init__(self, shape_shift: int = 0, background_shift: int = 0, copies: bool = False):
        self.digits = load_digits("test", 1000)
        self.shape_shift, self.background_shift = shape_shift, background_shift
        self.copies = copies

    def draw_noise(self, num: int, generator: torch.Generator) -> Tensor:
        return torch.rand(num, 1, generator=generator)

    def shape(self, noise: Tensor, y: Tensor) -> Tensor:
        masks = []
        for place, label in zip(noise[:, 0], (y + self.shape_shift) % 10, strict=True):
            digits = self.digits.masks[self.digits.labels == label]
            masks.append(digits[0 if self.copies else int(place * len(digits))])
        return torch.stack(masks).float().clamp(0.01, 0.99)

    def texture(self, noise: Tensor, y: Tensor) -> Tensor:
        return self.render("texture", y, 3)

    def background(self, noise: Tensor, y: Tensor) -> Tensor:
        y = (y + self.background_shift) % 10
        return self.render("background", y, 4)

    def render(self, factor: str, y: Tensor, seed: int) -> Tensor:
        classes = torch.arange(10) if self.copies else y
        drawn = render_factor(
            "double_colored", factor, classes, torch.Generator().manual_seed(seed)
        )
        return drawn[y] if self.copies else drawn

    def shuffle(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return images


@pytest.fixture(scope="module")
def judges() -> Judges:
    config = JudgeConfig(100, 50, learning_rate=1e-2)
    texture, background = (
        train_appearance_judge("double_colored", factor, config=config)
        for factor in ("texture", "background")
    )
    return Judges(load_shape_judge(), texture, background)


def test_a_perfect_generator_measures_as_the_real_data(judges: Judges) -> None:
    perfect = measure_generator(Perfect(), "double_colored", num=NUM, judges=judges)
    real = measure_digits("double_colored", num=NUM, judges=judges)
    for metrics in (perfect, real):
        assert metrics.shape_accuracy > 0.96
        assert metrics.texture_accuracy > 0.9
        assert metrics.background_accuracy is not None
        assert metrics.background_accuracy > 0.9
        assert metrics.diversity == pytest.approx(1, abs=0.1)
        assert metrics.coverage > 0.75
        assert metrics.texture_diversity == pytest.approx(1, abs=0.15)
        assert metrics.background_diversity == pytest.approx(1, abs=0.15)
        assert metrics.mask_area == pytest.approx(0.17, abs=0.02)
        assert metrics.num == NUM
    assert real.mask_entropy == 0
    assert perfect.mask_entropy == pytest.approx(0.0808, abs=1e-3)  # of 0.01


def test_each_metric_tells_its_own_fault(judges: Judges) -> None:
    def measure(cgn: Perfect) -> tuple[float, ...]:
        metrics = measure_generator(cgn, "double_colored", num=NUM, judges=judges)
        assert metrics.background_accuracy is not None
        assert len(metrics.class_shape_accuracies) == 10
        return (
            metrics.shape_accuracy,
            metrics.texture_accuracy,
            metrics.background_accuracy,
            metrics.diversity,
            metrics.coverage,
        )

    copies = measure_generator(Perfect(copies=True), "double_colored", num=NUM, judges=judges)
    assert copies.texture_diversity == copies.background_diversity == 0

    shape, texture, background, diversity, covered = measure(Perfect(copies=True))
    assert shape >= 0.9
    assert diversity == 0
    assert covered < 0.5
    shape, texture, background, diversity, covered = measure(Perfect(shape_shift=1))
    assert shape < 0.1
    assert min(texture, background) > 0.9
    assert covered < 0.2
    shape, texture, background, *_ = measure(Perfect(background_shift=1))
    assert background < 0.1
    assert min(shape, texture) > 0.9


def test_what_is_drawn_depends_on_the_seed_alone(judges: Judges, tiny_cgn: SmallCGN) -> None:
    first, second, other = (
        measure_generator(tiny_cgn, "double_colored", num=60, seed=seed, judges=judges)
        for seed in (0, 0, 1)
    )
    assert first == second
    assert first != other


def test_textures_are_judged_after_the_shuffle(judges: Judges, tiny_cgn: SmallCGN) -> None:
    class Half(Perfect):
        """Textures of the wrong colour until they are shuffled."""

        def texture(self, noise: Tensor, y: Tensor) -> Tensor:
            return -super().texture(noise, y)

        def shuffle(self, images: Tensor, generator: torch.Generator) -> Tensor:
            return -images

    metrics = measure_generator(Half(), "double_colored", num=60, judges=judges)
    assert metrics.texture_accuracy > 0.9
    assert metrics.background_accuracy is not None
    assert metrics.background_accuracy < 0.5


def test_real_digits_are_as_many_of_each_class_in_turn() -> None:
    masks, labels = balanced_digits("train", 25)
    assert labels.tolist() == [*range(10), *range(10), *range(5)]
    digits = load_digits("train", 200)
    nines = digits.masks[digits.labels == 9]
    assert torch.equal(masks[[9, 19]], nines[:2])
    with pytest.raises(ArgumentError, match=r"real digits 0 in the test split .*: lower num"):
        balanced_digits("test", 10_010)


def test_arguments_that_cannot_be_measured_are_refused(judges: Judges) -> None:
    for num in (59, 8001):
        with pytest.raises(ArgumentError, match=f"num must be 60 to 8000, got {num}"):
            measure_generator(Perfect(), "colored", num=num, judges=judges)
        with pytest.raises(ArgumentError, match=f"num must be 60 to 8000, got {num}"):
            measure_digits("colored", num=num, judges=judges)
    with pytest.raises(ArgumentError, match="10 classes of 32x32 pixels, and this CGN has 3 of"):
        measure_generator(SmallCGN(num_classes=3, width=4).freeze(), "colored", judges=judges)


@pytest.mark.parametrize(
    ("variant", "accuracy"), [("colored", 0.84), ("double_colored", 0.87), ("wildlife", 0.90)]
)
def test_published_generators_draw_the_share_of_digits_that_is_known(
    variant: str, accuracy: float, published_paths: dict[str, Path]
) -> None:
    judges = Judges(load_shape_judge(), AppearanceJudge().eval(), None)
    metrics = measure_generator(load_cgn(published_paths[variant]), variant, num=300, judges=judges)
    assert metrics.shape_accuracy == pytest.approx(accuracy, abs=0.05)


def test_a_card_of_a_variant_has_judges_numbers_and_verdicts(
    judges: Judges, tiny_cgn: SmallCGN, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "load_judges", lambda *_: judges)
    monkeypatch.setattr(training, "draw_generators", lambda cgns, judge: (cgns, judge))
    measured = training.measure_for_card("mine", tiny_cgn, "double_colored", num=60)
    assert [row[0] for row in measured.table] == ["generator", "this generator", "real data"]
    assert measured.figure == ({"mine": tiny_cgn}, judges.shape)
    assert "verdict" in measured.caption
    assert "train-generator measure" in measured.notes


def test_the_recipe_gets_images_and_labels_of_a_variant_and_no_masks() -> None:
    textures = procedural_textures(1)
    data = make_variant("wildlife", "train", num=60)
    names = {"procedural": (None, "procedural textures"), "folder": (textures, "photographs")}
    for kind, (stacks, words) in names.items():
        known = training.label_variant(data, "wildlife", stacks)
        assert torch.equal(known.images, data.images)
        assert known.facts == {"variant": "wildlife", "textures": kind}
        assert known.description.endswith(words)
        assert not hasattr(known, "masks")


@pytest.fixture
def checkpoint(tiny_cgn: SmallCGN, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.pth"
    torch.save(tiny_cgn.state_dict(), path)
    return path


@pytest.fixture
def quick_judges(judges: Judges, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "load_judges", lambda *_, **__: judges)


@pytest.mark.usefixtures("quick_judges")
def test_measure_prints_a_row_for_each_and_draws_them(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    picture = tmp_path / "sheet.png"
    monkeypatch.setattr(commands, "draw_generators", lambda *_: Figure(figsize=(1, 1)))
    commands.measure("double_colored", str(checkpoint), out=str(picture), num=60)
    header, row, real, said = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["generator", "shape"]
    assert row.startswith("tiny.pth ")
    assert real.startswith("real data ")
    assert said == f"picture: {picture}"
    assert matplotlib.image.imread(picture).ndim == 3

    other = checkpoint.rename(tmp_path / "other.pth")
    copy = tmp_path / "folder" / "other.pth"
    copy.parent.mkdir()
    copy.write_bytes(other.read_bytes())
    commands.measure("double_colored", [str(other), str(copy)], num=60, table="markdown")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        str(other),  # the same name twice: the folder tells them apart
        str(copy),
        "real data",
    ]


def test_measure_knows_a_wrong_argument_before_it_trains_a_judge(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "load_judges", None)
    with pytest.raises(FileError, match=r"nowhere.pth"):
        commands.measure("colored", [str(checkpoint), "nowhere.pth"])
    for names in ([], [str(checkpoint)] * 2):
        with pytest.raises(ArgumentError, match="name one generator or more, and each once"):
            commands.measure("colored", names)
    with pytest.raises(ArgumentError, match="a picture is saved as one of"):
        commands.measure("colored", str(checkpoint), out="sheet.txt")


def test_the_picture_says_what_the_judge_saw(tiny_cgn: SmallCGN) -> None:
    judge = ShapeJudge().eval()
    with torch.no_grad():
        judge.head.weight.zero_()
        judge.head.bias.copy_(torch.eye(10)[7])
    figure = draw_generators({"tiny": tiny_cgn}, judge)
    captions = [axes.get_xlabel() for axes in figure.axes[:10]]
    assert captions[7] == "✓ 7"
    assert captions[:7] == [f"✗ {y} seen as 7" for y in range(7)]
    assert [axes.get_ylabel() for axes in figure.axes[::10]] == [
        *[f"mask {number}" for number in (1, 2, 3, 4)],
        "foreground",
        "background",
        "counterfactual",
    ]


def test_judge_trains_and_writes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ArgumentError, match=r"saved as .safetensors"):
        commands.judge(str(tmp_path / "judge.pt"))
    with monkeypatch.context() as patch:
        patch.setattr(commands, "train_shape_judge", lambda *_, **__: pytest.fail("trained"))
        with pytest.raises(FileNotFoundError):
            commands.judge(str(tmp_path / "missing" / "judge.safetensors"))
    monkeypatch.setattr(
        commands, "JudgeConfig", lambda seed: JudgeConfig(num_steps=2, batch_size=8, seed=seed)
    )
    monkeypatch.setattr(commands, "judge_accuracy", lambda _: 0.125)
    path = tmp_path / "judge.safetensors"
    commands.judge(str(path), seed=1)
    assert "12.50 % of the clean test digits" in capsys.readouterr().out
    assert isinstance(load_shape_judge(path), ShapeJudge)


def test_the_table_names_the_worst_classes_and_leaves_out_what_there_is_not(
    judges: Judges,
) -> None:
    no_background = Judges(judges.shape, judges.texture, None)
    metrics = measure_digits("double_colored", num=60, judges=no_background)
    header, row = metrics_table({"real": metrics})
    assert len(header) == len(row)
    assert row[header.index("background")] == row[header.index("background diversity")] == "-"
    assert row[header.index("mask entropy")] == "0.000"
