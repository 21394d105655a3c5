"""What sources that draw from a CGN have in common, fresh ones and banks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from colored_parts_helpers import make_parts
from source_helpers import ReadableCGN, labels_of, read_classes, read_ids, real_batch, seeded
from stream_helpers import same
from torch import nn

from cgn_augment import BankSource, ClassMap, FreshSource, Interventions, Mechanisms, Source, Step
from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.functional import compose
from cgn_augment.generators import SmallCGN
from cgn_augment.generators.drawing import run_mechanisms

Maker = Callable[..., FreshSource | BankSource]
MAKERS: dict[str, Maker] = {
    "fresh": FreshSource,
    "bank": lambda cgn, *args, **kwargs: BankSource(cgn, 30, 7, *args, **kwargs),
}


@pytest.fixture(params=MAKERS.values(), ids=MAKERS)
def make(request: pytest.FixtureRequest) -> Maker:
    maker: Maker = request.param
    return maker


@pytest.mark.parametrize("num", [0, 1, 9])
def test_samples_have_the_documented_form(make: Maker, num: int, tiny_cgn: SmallCGN) -> None:
    source = make(tiny_cgn)
    drawn = source.sample(num, seeded())
    assert drawn.images.shape == (num, 3, 32, 32)
    assert drawn.images.dtype == torch.float32
    assert not drawn.images.requires_grad
    for labels in (drawn.shape, drawn.texture, drawn.background):
        assert labels.shape == (num,)
        assert labels.dtype == torch.int64
    if num:
        assert drawn.images.min() >= -1
        assert drawn.images.max() <= 1
        assert drawn.images.std() > 0.1
    assert isinstance(source, Source)
    assert (source.image_size, source.num_classes) == (32, 10)
    assert source.device == torch.device("cpu")


def test_images_are_composed_of_factors_whose_textures_can_be_had_alone(
    make: Maker, tiny_cgn: SmallCGN
) -> None:
    source, step = make(tiny_cgn, Interventions(num_per_shape=2)), Step(5)
    drawn = source.sample(9, seeded(), step)
    generators = seeded(), seeded()
    factors, classes = source.sample_factors(9, generators[0], step)
    assert torch.equal(drawn.images, compose(*factors))
    assert torch.equal(classes, labels_of(drawn))
    textures, again = source.sample_factors(9, generators[1], step, masks=False)
    assert same((textures, again), (factors[1:], classes))
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


RULES = {
    "uniform": Interventions(),
    "listed": Interventions(shape=[7, 2, 9], texture=3, background=[0, 5]),
    "class map": Interventions(class_map=ClassMap({0: [8, 1], 1: 4, 2: [0, 3, 5]})),
    "list and map": Interventions(texture=[9, 2], class_map=ClassMap({0: [8, 1], 1: 4})),
    "shared shapes": Interventions(num_per_shape=3),
    "permute": Interventions("permute"),
    "permute and list": Interventions("permute", background=[6, 1], num_per_shape=4),
    "permute and map": Interventions("permute", class_map=ClassMap({5: [8, 1], 1: 4})),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_each_label_is_the_class_that_the_image_shows(make: Maker, rule: Interventions) -> None:
    source, generator = make(ReadableCGN(), rule), seeded()
    shown = []
    for number in range(12):  # a bank of 30 with 7 replaced per step is all new after 5
        real = real_batch([8, 1, 1, 4, -1, 9])
        drawn = source.sample(50, generator, Step(number), real)
        assert torch.equal(read_classes(drawn.images), labels_of(drawn))
        shown.append(labels_of(drawn))
    for factor, row in zip(("shape", "texture", "background"), torch.cat(shown, 1), strict=True):
        possible = set(rule.classes(factor, 10))
        if rule.kind == "permute" and rule.listed(factor) is None:
            possible &= {8, 1, 4, 9}
        assert set(row.tolist()) == possible


def test_neighbours_share_a_mask_and_nothing_else(make: Maker) -> None:
    source = make(ReadableCGN(1), Interventions(num_per_shape=4))
    shape, texture, background = read_ids(source.sample(22, seeded()).images)
    assert [len(group.unique()) for group in shape.split(4)] == [1] * 6
    assert len(shape.unique()) > 2
    for row in (texture, background):
        assert max(len(group.unique()) for group in row.split(4)) > 1


def test_a_real_batch_is_not_taken_for_a_step(make: Maker, tiny_cgn: SmallCGN) -> None:
    with pytest.raises(ArgumentTypeError, match=r"step must be Step.* goes to real="):
        make(tiny_cgn).sample(4, seeded(), real_batch([5]))


def test_a_restricted_source_draws_only_the_classes_of_the_map(make: Maker) -> None:
    source = make(ReadableCGN(), Interventions(texture=[6]), chunk=5)
    restricted = source.restrict(ClassMap({0: [8, 1], 1: 4}))
    assert type(restricted) is type(source)
    assert restricted.fingerprint != source.fingerprint
    assert restricted.chunk == 5
    drawn = restricted.sample(300, seeded())
    assert torch.equal(read_classes(drawn.images), labels_of(drawn))
    assert [row.unique().tolist() for row in labels_of(drawn)] == [[1, 4, 8], [6], [1, 4, 8]]
    assert (drawn.shape == 4).float().mean().item() == pytest.approx(0.5, abs=0.12)
    assert source.sample(300, seeded()).shape.unique().tolist() == list(range(10))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interventions": Interventions(background=[2, 10])}, "background lists class 10"),
        ({"interventions": Interventions(class_map=ClassMap([3, 11]))}, r"the classes \[11\]"),
        ({"interventions": "permute"}, "must be .* got 'permute'"),
        ({"chunk": 0}, "chunk must be 1 or more, got 0"),
    ],
)
def test_arguments_that_cannot_be_used_are_errors(
    make: Maker, options: dict[str, object], message: str, tiny_cgn: SmallCGN
) -> None:
    with pytest.raises((ArgumentError, ArgumentTypeError), match=message):
        make(tiny_cgn, **options)


def test_a_source_needs_a_frozen_cgn(make: Maker) -> None:
    with pytest.raises(ArgumentTypeError, match=r"needs a CGN \(such as .* got Linear"):
        make(nn.Linear(2, 2))
    with pytest.raises(ArgumentError, match=r"still in training: call cgn\.freeze\(\) before"):
        make(SmallCGN(width=4))
    assert isinstance(ReadableCGN(), Mechanisms)  # a CGN of another make needs no `frozen`


def test_a_fresh_sample_is_what_the_mechanisms_draw(tiny_cgn: SmallCGN) -> None:
    (factors, y), generator = FreshSource(tiny_cgn).sample_factors(12, seeded(5)), seeded(5)
    assert torch.equal(y, Interventions().draw(12, 10, generator))
    assert same(factors, run_mechanisms(tiny_cgn, y, generator, 1, 64))


def test_fingerprints_tell_what_is_drawn(make: Maker, tiny_cgn: SmallCGN) -> None:
    rules = [
        None,
        Interventions(shape=1),
        Interventions(num_per_shape=2),
        Interventions("permute"),
        Interventions(class_map=ClassMap([0, 1])),
        Interventions(class_map=ClassMap([0, 2])),
    ]
    different = [make(tiny_cgn, rule) for rule in rules] + [make(ReadableCGN())]
    assert len({source.fingerprint for source in different}) == len(different)
    before = different[0].fingerprint
    assert make(tiny_cgn, chunk=2).fingerprint == before
    different[0].sample(2, seeded(), Step(4))
    assert different[0].fingerprint == before


@pytest.mark.gpu
def test_a_source_on_a_gpu_draws_what_it_draws_on_the_cpu(make: Maker, tiny_cgn: SmallCGN) -> None:
    elsewhere = SmallCGN(**tiny_cgn.config)
    elsewhere.load_state_dict(tiny_cgn.state_dict())
    expected = make(tiny_cgn).sample(16, seeded())
    drawn = make(elsewhere.to("cuda").freeze()).sample(16, seeded())
    assert drawn.images.device.type == drawn.shape.device.type == "cuda"
    assert torch.equal(labels_of(drawn).cpu(), labels_of(expected))
    torch.testing.assert_close(drawn.images.cpu(), expected.images, rtol=1e-2, atol=1e-2)


def test_a_tied_texture_is_of_the_noise_and_class_of_the_shape(make: Maker) -> None:
    source = make(ReadableCGN(), Interventions(texture="shape", num_per_shape=3))
    drawn = source.sample(21, seeded())
    shape, texture, background = labels_of(drawn)
    assert torch.equal(read_classes(drawn.images), labels_of(drawn))
    assert torch.equal(shape, texture)
    assert not torch.equal(shape, background)
    of_shape, of_texture, behind = read_ids(drawn.images)
    torch.testing.assert_close(of_shape, of_texture, atol=2e-4, rtol=0)
    assert [len(group.unique()) for group in of_texture.split(3)] == [1] * 7
    assert max(len(group.unique()) for group in behind.split(3)) > 1


def test_another_background_is_of_another_class(make: Maker) -> None:
    source = make(ReadableCGN(4), Interventions(background="other"))
    drawn = source.sample(200, seeded())
    assert torch.equal(read_classes(drawn.images), labels_of(drawn))
    assert (drawn.shape != drawn.background).all()
    assert (drawn.shape == drawn.texture).any()
    with pytest.raises(ArgumentError, match="background='other' needs a class besides"):
        source.restrict(ClassMap({0: [1, 2]}))


def test_parts_are_looked_through_when_the_source_is_made(make: Maker) -> None:
    parts = make_parts()
    assert make(parts).interventions == Interventions(texture="shape")
    with pytest.raises(ArgumentError, match=r"no foreground of class 0 .*\(texture='shape'\)"):
        make(parts, Interventions())
