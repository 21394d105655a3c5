"""Shape bias, background gap and factor sensitivity, against closed forms."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from conftest import SHARED, make_tiny_cgn
from imagenet_helpers import make_reduced_cgn
from torch import Tensor

from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.images.imagenet_classes import imagenet_names
from cgn_augment.types import FACTORS, Mechanisms
from train_generator.robustness import (
    ClassGroups,
    FactorShares,
    background_gap,
    change_factors,
    cue_conflict_categories,
    factor_sensitivity,
    group_predictions,
    group_probabilities,
    imagenet9_classes,
    measure_factors,
    read_groups,
    shape_bias,
)

MAPPINGS = SHARED / "data" / "mappings"


def published(name: str) -> dict[str, object]:
    path = MAPPINGS / name
    if not path.is_file():
        pytest.skip(f"the published table is not here: {path}")
    table: dict[str, object] = json.loads(path.read_text())
    return table


# The tables


def test_the_categories_are_the_published_ones() -> None:
    groups = cue_conflict_categories()
    ours = {name: list(classes) for name, classes in zip(groups.names, groups.classes, strict=True)}
    assert ours == published("imagenet_to_16_categories.json")


def test_the_nine_classes_are_the_published_ones() -> None:
    ours = imagenet9_classes().to_group(torch.arange(1000)).tolist()
    assert {str(y): group for y, group in enumerate(ours)} == published("imagenet_to_in9.json")


@pytest.mark.parametrize(
    ("groups", "num", "num_classes", "word"),
    [(cue_conflict_categories(), 16, 207, "bear"), (imagenet9_classes(), 9, 370, "fish")],
)
def test_the_tables_are_whole(groups: ClassGroups, num: int, num_classes: int, word: str) -> None:
    assert len(groups) == len(groups.names) == num
    classes = [y for group in groups.classes for y in group]
    assert len(classes) == len(set(classes)) == num_classes
    assert set(classes) <= set(range(1000))
    assert (groups.to_group(torch.arange(1000)) >= 0).sum() == num_classes
    names = [imagenet_names()[y] for y in groups.classes[groups.names.index(word)]]
    assert [name for name in names if word in name]


def test_every_category_holds_what_it_is_called() -> None:
    for name, classes in zip(
        cue_conflict_categories().names, cue_conflict_categories().classes, strict=True
    ):
        known = {"airplane": "airliner", "bicycle": "bicycle", "car": "convertible", "cat": "tabby"}
        known |= {"bird": "robin", "boat": "canoe", "dog": "golden retriever", "knife": "cleaver"}
        known |= {"oven": "rotisserie", "truck": "pickup"}
        names = [imagenet_names()[y] for y in classes]
        assert any(known.get(name, name) in each for each in names), (name, names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat = [[5, 3]]", r"\[5, 3\] goes backwards"),
        ("cat = [[1, 2, 3]]", "no table of groups"),
        ("cat = 3", "no table of groups"),
        ("cat = [[1, 3]]\ndog = [2]", "gives class 2 to label 0 and to label 1"),
        ("cat = [1000]", r"the classes 0 to 999, not \[1000\]"),
        ("cat = []", "classes of 0 or more"),
        ("cat", "lines such as 'cat = "),
    ],
)
def test_a_broken_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "groups.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_groups(path)


def test_groups_need_names_of_their_own() -> None:
    with pytest.raises(ArgumentError, match=r"2 names \(1 different\) for 2 groups"):
        ClassGroups(("cat", "cat"), ((1,), (2,)))
    with pytest.raises(ArgumentError, match="1 names"):
        ClassGroups(("cat",), ((1,), (2,)))
    with pytest.raises(ArgumentError, match="gives class 1 to label 0 and to label 1"):
        ClassGroups(("cat", "dog"), ((1,), (1,)))


def test_a_classifier_of_the_groups_alone_is_known_by_its_names() -> None:
    groups = ClassGroups(("cat", "dog", "wheeled vehicle"), ((1,), (2,), (3,)))
    assert groups.columns(["dog", "wheeled vehicle", "cat"]) == [2, 0, 1]
    assert groups.columns(["00_cat", "01_dog", "02_wheeled vehicle"]) == [0, 1, 2]
    assert groups.columns(["cat", "dog"]) is None
    assert groups.columns(["cat", "dog", "car"]) is None


# From 1000 classes to a group


def test_probabilities_are_averaged_and_not_summed() -> None:
    groups = ClassGroups(("one", "three"), ((0,), (1, 2, 3)))
    logits = torch.full((1, 1000), -math.inf)
    logits[0, :4] = torch.tensor([0.4, 0.2, 0.2, 0.2]).log()
    probabilities = group_probabilities(logits, groups)
    assert probabilities.dtype == torch.float64
    torch.testing.assert_close(probabilities, torch.tensor([[0.4, 0.2]]).double())
    assert probabilities.argmax() == 0  # the sum would say the other one: 0.4 against 0.6


def test_the_best_class_may_be_of_another_group_than_the_decision() -> None:
    groups = ClassGroups(("one", "two"), ((0, 1), (2,)))
    logits = torch.full((1, 1000), -math.inf)
    logits[0, :3] = torch.tensor([0.5, 0.1, 0.4]).log()
    assert group_probabilities(logits, groups).argmax() == 1  # 0.3 against 0.4
    assert group_predictions(logits, groups).tolist() == [0]


def test_equal_scores_give_every_group_a_thousandth() -> None:
    probabilities = group_probabilities(torch.zeros(2, 1000), cue_conflict_categories())
    torch.testing.assert_close(probabilities, torch.full((2, 16), 1e-3, dtype=torch.float64))


def test_a_class_of_none_of_the_nine_is_no_prediction() -> None:
    table = imagenet9_classes().to_group(torch.arange(1000))
    assert torch.equal(group_predictions(torch.eye(1000), imagenet9_classes()), table)
    assert (table == -1).sum() == 630


@pytest.mark.parametrize("function", [group_probabilities, group_predictions])
def test_other_than_1000_classes_are_refused(function: object) -> None:
    with pytest.raises(ArgumentError, match=r"of ImageNet's 1000 classes.*got the shape \(2, 10\)"):
        function(torch.zeros(2, 10), imagenet9_classes())  # type: ignore[operator]


# Shape bias and background gap


def test_shape_bias_counts_decisions_for_either_cue_alone() -> None:
    #                shape texture neither none, no conflict, shape of category 1
    decisions = torch.tensor([0, 1, 2, 3, 3, 1])
    shapes = torch.tensor([0, 0, 0, 3, 3, 1])
    textures = torch.tensor([1, 1, 1, 3, 0, 0])
    counts = shape_bias(decisions, shapes, textures, num_categories=4)
    assert counts.num_images == (3, 1, 0, 1)
    assert counts.num_shape == (1, 1, 0, 1)
    assert counts.num_texture == (1, 0, 0, 0)
    assert counts.bias == 3 / 4
    assert counts.num_cue_decisions == 4
    assert counts.shape_accuracy == 3 / 5
    assert counts.texture_accuracy == 1 / 5
    assert counts.category_biases[:2] == (0.5, 1.0)
    assert math.isnan(counts.category_biases[2])


def test_without_a_decision_for_a_cue_there_is_no_bias() -> None:
    counts = shape_bias(torch.tensor([2]), torch.tensor([0]), torch.tensor([1]))
    assert math.isnan(counts.bias)
    assert counts.shape_accuracy == counts.texture_accuracy == 0


@pytest.mark.parametrize(
    ("decisions", "shapes", "textures", "message"),
    [
        ([0, 1], [0], [1], "got 2 decisions, 1 shapes and 1 textures"),
        ([0], [1], [1], "no image has a shape and a texture of two categories"),
        ([], [], [], "no image has a shape"),
        ([0], [16], [1], "categories must be 0 to 15, got 1 to 16"),
        ([0], [-1], [1], "categories must be 0 to 15, got -1 to 1"),
    ],
)
def test_shape_bias_refuses_what_it_cannot_count(
    decisions: list[int], shapes: list[int], textures: list[int], message: str
) -> None:
    tensors = (torch.tensor(values, dtype=torch.long) for values in (decisions, shapes, textures))
    with pytest.raises(ArgumentError, match=message):
        shape_bias(*tensors)


def test_the_background_gap_is_a_difference() -> None:
    assert background_gap({"mixed_same": 0.75, "mixed_rand": 0.5, "original": 1.0}) == 0.25
    with pytest.raises(ArgumentError, match="needs the accuracy on mixed_rand, got"):
        background_gap({"mixed_same": 0.75})


# Sensitivity


class StubCGN:
    """Images that say exactly how they were made: red the texture, green the background.

    Blue is -1 on the object, which lies in row `class`; the noise moves colours by less than the
    half of a class.
    """

    num_classes, image_size = 4, 8
    fingerprint = "stub"
    device = torch.device("cpu")

    def __init__(self, shared_noise: bool = False) -> None:
        self.shared_noise = shared_noise
        self.calls: dict[str, list[Tensor]] = {factor: [] for factor in FACTORS}

    def draw_noise(self, num: int, generator: torch.Generator) -> Tensor:
        return torch.rand(num, 1, generator=generator)

    def shape(self, noise: Tensor, y: Tensor) -> Tensor:
        self.calls["shape"].append(noise)
        rows = torch.eye(8)[y].view(-1, 1, 8, 1)
        return rows.expand(-1, 1, 8, 8).clone()

    def texture(self, noise: Tensor, y: Tensor) -> Tensor:
        self.calls["texture"].append(noise)
        return self._color(noise, y, channel=0, blue=-1.0)

    def background(self, noise: Tensor, y: Tensor) -> Tensor:
        self.calls["background"].append(noise)
        return self._color(noise, y, channel=1, blue=1.0)

    def shuffle(self, images: Tensor, generator: torch.Generator) -> Tensor:
        torch.randint(9, (len(images), 2), generator=generator)
        return images

    def _color(self, noise: Tensor, y: Tensor, channel: int, blue: float) -> Tensor:
        images = torch.zeros(len(y), 3, 8, 8)
        images[:, channel] = ((y + 0.8 * noise[:, 0] + 0.1) / 4 * 2 - 1).view(-1, 1, 1)
        images[:, 2] = blue
        return images


def read_factors(images: Tensor) -> dict[str, Tensor]:
    """Three outputs that each read one factor of the stub's images without error."""
    inside = images[:, 2, :, 0] < 0
    row = inside.int().argmax(dim=1)
    places = torch.arange(len(images))
    red, green = images[places, 0, row, 0], images[:, 1, 7, 7]
    found = {"shape": row, "texture": to_class(red), "background": to_class(green)}
    found["half"] = found["background"] // 2
    return {name: torch.eye(4)[y] for name, y in found.items()}


def to_class(color: Tensor) -> Tensor:
    return ((color + 1) * 2).floor().long()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shared_noise", [False, True])
def test_an_output_that_reads_one_factor_is_sensitive_to_it_alone(shared_noise: bool) -> None:
    found = factor_sensitivity(read_factors, StubCGN(shared_noise), 60, seeded(), chunk=16)
    assert found.outputs == ("shape", "texture", "background", "half")
    assert found.shares[:3] == ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    assert found.num == 60
    # Two of four classes look alike to it: it flips for two of the three other classes.
    assert found.shares[3][:2] == (0, 0)
    error = found.standard_errors[3][2]
    assert error == pytest.approx(math.sqrt(found.shares[3][2] * (1 - found.shares[3][2]) / 60))
    assert abs(found.shares[3][2] - 2 / 3) < 4 * error
    (part,) = change_factors(StubCGN(shared_noise), 60, seeded())
    flips = part.classes[2] // 2 != part.new_classes[2] // 2
    assert found.shares[3][2] == flips.sum() / 60


def test_accuracy_is_measured_on_the_label_of_each_factor() -> None:
    measured = measure_factors(read_factors, StubCGN(), 40, seeded(), chunk=7)
    (part,) = change_factors(StubCGN(), 40, seeded())
    for row, factor in enumerate(FACTORS):
        same = [float((part.classes[row] == part.classes[i]).sum() / 40) for i in range(3)]
        assert measured.accuracy.shares[row] == pytest.approx(same), factor
        assert measured.accuracy.shares[row][row] == 1
    assert (
        measured.sensitivity.shares
        == factor_sensitivity(read_factors, StubCGN(), 40, seeded()).shares
    )
    mapped = measure_factors(read_factors, StubCGN(), 40, seeded(), to_label=lambda y: 3 - y)
    assert mapped.accuracy.shares[0][0] == 0


def test_one_factor_changes_and_the_others_stay() -> None:
    (part,) = change_factors(StubCGN(), 30, seeded())
    assert (part.classes != part.new_classes).all()
    shown = {name: scores.argmax(1) for name, scores in read_factors(part.images).items()}
    for row, factor in enumerate(FACTORS):
        assert torch.equal(shown[factor], part.classes[row])
        changed = read_factors(part.changed[factor])
        assert torch.equal(changed[factor].argmax(1), part.new_classes[row])
    # The colours, noise and all, are those of the first images where they do not change.
    assert torch.equal(part.changed["texture"][:, 1, 7], part.images[:, 1, 7])
    assert torch.equal(part.changed["shape"][:, 1, 7], part.images[:, 1, 7])
    assert torch.equal(
        part.changed["background"][:, 0].amin((1, 2)), part.images[:, 0].amin((1, 2))
    )


@pytest.mark.parametrize("shared_noise", [False, True])
def test_a_changed_factor_has_noise_of_its_own(shared_noise: bool) -> None:
    cgn = StubCGN(shared_noise)
    list(change_factors(cgn, 5, seeded()))
    drawn = [noise for factor in FACTORS for noise in cgn.calls[factor]]
    assert len(drawn) == 6
    different = {tuple(noise.flatten().tolist()) for noise in drawn}
    assert len(different) == (4 if shared_noise else 6)


def test_a_changed_class_is_of_another_group() -> None:
    groups = [[0, 1], [3]]
    (part,) = change_factors(StubCGN(), 50, seeded(), choices=groups)
    assert set(part.classes.flatten().tolist()) == {0, 1, 3}
    assert ((part.classes == 3) != (part.new_classes == 3)).all()
    assert set(part.new_classes.flatten().tolist()) == {0, 1, 3}
    share = (part.classes == 3).double().mean()
    assert abs(share - 0.5) < 0.2  # each group is drawn as often, however many classes it has


def test_all_other_classes_come_equally_often() -> None:
    (part,) = change_factors(StubCGN(), 2000, seeded(), chunk=2000)
    steps = ((part.new_classes - part.classes) % 4).flatten()
    counts = torch.bincount(steps, minlength=4)
    assert counts[0] == 0
    assert (counts[1:] - 2000).abs().max() < 5 * math.sqrt(6000 * 2 / 9)


@pytest.mark.parametrize("kind", ["small", "imagenet"])
def test_what_is_drawn_depends_on_the_generator_and_not_on_the_chunk(kind: str) -> None:
    cgn: Mechanisms = (make_tiny_cgn() if kind == "small" else make_reduced_cgn()).freeze()

    def draw(seed: int, chunk: int) -> dict[str, Tensor]:
        parts = list(change_factors(cgn, 5, seeded(seed), chunk=chunk))
        assert [len(part.images) for part in parts] == ([5] if chunk == 5 else [3, 2])
        whole = {factor: torch.cat([x.changed[factor] for x in parts]) for factor in FACTORS}
        return whole | {"image": torch.cat([part.images for part in parts])}

    once, again, other = draw(0, 5), draw(0, 3), draw(1, 5)
    for name, images in once.items():
        torch.testing.assert_close(images, again[name], atol=1e-5, rtol=0)
        assert images.shape == (5, 3, 32, 32)
        assert (images - other[name]).abs().max() > 0.1
        if name != "image":
            assert (images - once["image"]).abs().amax((1, 2, 3)).min() > 1e-3


@pytest.mark.parametrize(
    ("num", "chunk", "choices", "message"),
    [
        (0, 1, None, "num must be 1 or more, got 0"),
        (1, 0, None, "chunk must be 1 or more, got 0"),
        (1, 1, [[3]], "between two classes or more"),
    ],
)
def test_sensitivity_refuses_what_cannot_be_drawn(
    num: int, chunk: int, choices: Sequence[Sequence[int]] | None, message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        factor_sensitivity(read_factors, StubCGN(), num, seeded(), chunk=chunk, choices=choices)


def test_shares_are_a_row_for_each_output() -> None:
    with pytest.raises(ArgumentError, match="a row of 3 shares for each of the outputs"):
        FactorShares(("logits",), ((0.5, 0.5),), 4)
    with pytest.raises(ArgumentError, match="a row of 3 shares for each of the outputs"):
        FactorShares(("logits", "other"), ((0.5, 0.5, 0.5),), 4)
