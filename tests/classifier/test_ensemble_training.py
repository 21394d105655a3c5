"""The training of the invariant ensemble: losses, BatchNorm, schedules, interruption, ranks."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ensemble_helpers import (
    make_run,
    make_stream,
    make_tiny,
    press_in_step,
    show,
    train_rank,
)
from safetensors import safe_open
from shard_helpers import PROCESSES
from stream_helpers import StubSource
from torch import Tensor
from training_helpers import read_scalars

from cgn_augment.errors import ArgumentError, CheckpointError
from cgn_augment.generators.fingerprint import hash_weights
from cgn_augment.images.image_table import Groups
from train_generator.classifier import (
    EnsembleConfig,
    EnsembleResult,
    EnsembleRun,
    HeadLogits,
    ensemble_loss,
    find_correct,
    forward_parts,
    learning_rate_at,
    use_batch_statistics,
)
from train_generator.classifier.ensemble_config import make_schedule
from train_generator.classifier.ensemble_training import draw_curves

TESTS = [show(20)[:]]


def random_logits(num: int, num_classes: int = 4, seed: int = 0) -> HeadLogits:
    generator = torch.Generator().manual_seed(seed)
    return HeadLogits(*torch.randn(3, num, num_classes, generator=generator).requires_grad_())


# Losses --------------------------------------------------------------------------------------


def test_losses_are_the_cross_entropies_of_average_and_heads() -> None:
    real, made = random_logits(2), random_logits(3, seed=1)
    labels = torch.tensor([[0, 1, 2], [3, 3, 3], [1, 0, 2]])
    losses = ensemble_loss(real, torch.tensor([1, 2]), made, labels)
    average = (real.shape + real.texture + real.background) / 3
    scores = average.log_softmax(1)
    torch.testing.assert_close(losses.real, -(scores[0, 1] + scores[1, 2]) / 2)
    for place, head in enumerate(made):
        scores = head.log_softmax(1)
        expected = -sum(scores[i, labels[i, place]] for i in range(3)) / 3
        torch.testing.assert_close(losses[1 + place], expected)
    torch.testing.assert_close(losses.total(), sum(losses))


def test_each_loss_trains_its_own_head_on_counterfactuals_and_all_on_real_images() -> None:
    labels = torch.tensor([[0, 1, 2], [3, 3, 3]])
    for place, name in enumerate(HeadLogits._fields):
        real, made = random_logits(2), random_logits(2, seed=1)
        losses = ensemble_loss(real, torch.tensor([1, 2]), made, labels)
        gradients = torch.autograd.grad(getattr(losses, name), made, allow_unused=True)
        assert [gradient is not None for gradient in gradients] == [i == place for i in range(3)]
        first, *others = torch.autograd.grad(losses.real, real)
        assert all(torch.equal(first, other) for other in others)


def test_a_step_without_counterfactuals_has_the_real_loss_alone() -> None:
    real, nothing = random_logits(2), HeadLogits(*torch.zeros(3, 0, 4))
    labels = torch.tensor([1, 2])
    losses = ensemble_loss(real, labels, nothing, torch.zeros(0, 3, dtype=torch.int64))
    torch.testing.assert_close(losses.total(), F.cross_entropy(real.average(), labels))
    assert [float(loss) for loss in losses[1:]] == [0, 0, 0]


# Settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "epochs", "expected"),
    [
        ({}, [0, 20, 44.9], [1, 1, 1]),
        ({"schedule": "step", "step_epochs": 2}, [0, 1.9, 2, 4, 5.5], [1, 1, 0.1, 0.01, 0.01]),
        ({"schedule": "step", "step_factor": 0.5}, [14.9, 15, 30], [1, 0.5, 0.25]),
        ({"schedule": "cosine"}, [0, 15, 22.5, 30, 45], [1, 0.75, 0.5, 0.25, 0]),
        (
            {"schedule": "cosine", "warmup_epochs": 5, "num_epochs": 25},
            [0, 2.5, 5, 15, 25],
            [0.01, 0.505, 1, 0.5, 0],
        ),
    ],
)
def test_the_learning_rate_follows_the_schedule(
    settings: dict[str, Any], epochs: list[float], expected: list[float]
) -> None:
    config = EnsembleConfig(learning_rate=2.0, **settings)
    rates = [learning_rate_at(config, epoch) / 2 for epoch in epochs]
    assert rates == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine"])
@pytest.mark.parametrize("num_steps", [None, 3])
def test_the_scheduler_goes_through_the_learning_rates(
    schedule: Any, num_steps: int | None
) -> None:
    config = EnsembleConfig(
        num_epochs=6, schedule=schedule, step_epochs=2, warmup_epochs=1.5, learning_rate=0.3
    )
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    rates, scheduler = [], make_schedule(config, optimizer, num_steps)
    for _ in range(18):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == [learning_rate_at(config, n / (num_steps or 1)) for n in range(18)]


# BatchNorm -----------------------------------------------------------------------------------


def two_parts() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(6, 3, 8, 8, generator=generator)
    return real, 3 + torch.randn(4, 3, 8, 8, generator=generator)


@pytest.mark.parametrize("policy", ["eval", "real", "train"])
def test_running_statistics_are_of_the_images_that_the_policy_says(policy: str) -> None:
    model, (real, made) = make_tiny().train(), two_parts()
    convolution, norm = model.backbone[0], model.backbone[1]
    forward_parts(model, real, made, policy)
    seen = {"eval": real[:0], "real": real, "train": torch.cat([real, made])}[policy]
    mean, var = torch.zeros(8), torch.ones(8)
    if len(seen):
        outputs = convolution(seen).detach()
        mean = 0.1 * outputs.mean((0, 2, 3))
        var = 0.9 + 0.1 * outputs.var((0, 2, 3))
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, var)
    assert int(norm.num_batches_tracked) == (policy != "eval")


def test_with_eval_both_parts_are_normalised_with_the_running_statistics() -> None:
    model, (real, made) = make_tiny().train(), two_parts()
    parts = forward_parts(model, real, made, "eval")
    assert model.backbone[7].training  # dropout is as it was
    model.eval()
    for images, logits in zip((real, made), parts, strict=True):
        for ours, theirs in zip(logits, model(images), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_with_real_each_part_is_normalised_in_its_own_way() -> None:
    model, (real, made) = make_tiny().train(), two_parts()
    real_logits, made_logits = forward_parts(model, real, made, "real")
    torch.testing.assert_close(made_logits.shape, model.eval()(made).shape)
    use_batch_statistics(model, True)
    torch.testing.assert_close(real_logits.shape, model(real).shape)


@pytest.mark.parametrize("policy", ["eval", "real", "train"])
def test_a_step_without_counterfactuals_is_one_of_the_real_images(policy: str) -> None:
    model, (real, made) = make_tiny().train(), two_parts()
    real_logits, made_logits = forward_parts(model, real, made[:0], policy)
    assert len(made_logits.texture) == 0
    use_batch_statistics(model, policy != "eval")
    torch.testing.assert_close(real_logits.shape, model(real).shape)


# What comes out ------------------------------------------------------------------------------


def test_images_are_counted_by_head() -> None:
    model = make_tiny(num_classes=3).train()
    with torch.no_grad():
        for place, head in enumerate(model.heads.values()):
            head.weight.zero_()
            head.bias.copy_(torch.eye(3)[place] * (place + 1))  # the last one is the surest
    labels = torch.tensor([0, 0, 1, 2, 2, 2])
    right = find_correct(
        model, [(torch.zeros(4, 3, 8, 8), labels[:4]), (two_parts()[0][:2], labels[4:])]
    )
    assert {name: int(part.sum()) for name, part in right.items()} == {
        "average": 3,
        "shape": 2,
        "texture": 1,
        "background": 3,
        "background_free": 1,
    }
    assert len(right["average"]) == 6
    assert model.training


def test_each_head_learns_its_own_factor() -> None:
    run = make_run(num_epochs=60, dropout=0.0, ratio=4.0)
    [*_, last] = run.train(TESTS, progress=False)
    assert last.accuracy > 0.9
    made = StubSource().sample(400, torch.Generator().manual_seed(5))
    labels = {"shape": made.shape, "texture": made.texture, "background": made.background}
    with torch.no_grad():
        logits = run.model.eval()(made.images)
    for head, scores in logits._asdict().items():
        for factor, classes in labels.items():
            right = float((scores.argmax(1) == classes).float().mean())
            assert right > 0.8 if head == factor else right < 0.25, (head, factor, right)


def test_losses_and_accuracies_are_means_over_images() -> None:
    run = make_run(num_epochs=1, ratio=0.5, drop_last=False, real=show(20))
    seen: list[dict[str, float]] = []
    train = run._train_batch

    def note(*arguments: Any) -> dict[str, Tensor]:
        sums = train(*arguments)
        seen.append({name: float(value) for name, value in sums.items()})
        return sums

    run._train_batch = note  # type: ignore[method-assign]
    [result] = run.train(TESTS, progress=False)
    assert [step["images"] for step in seen] == [8, 8, 4]
    assert [step["made images"] for step in seen] == [4, 4, 2]
    total = {name: sum(step[name] for step in seen) for name in seen[0]}
    assert result.real_loss == pytest.approx(total["real"] / 20)
    assert result.texture_loss == pytest.approx(total["texture"] / 10)
    assert result.train_accuracy == pytest.approx(total["correct"] / 20)
    parts = result.real_loss + result.shape_loss + result.texture_loss + result.background_loss
    assert result.loss == pytest.approx(parts)


def test_the_folder_gets_all_that_was_made(tmp_path: Path) -> None:
    announced: list[EnsembleResult] = []
    run = make_run(tmp_path)
    results = run.train(TESTS, progress=False, announce=announced.append)
    assert announced == results
    names = {path.name.split(".")[0] for path in tmp_path.iterdir()}
    assert names == {"checkpoint", "classifier", "results", "curves", "events", "train", "metrics"}
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["epochs"] == [asdict(result) for result in results]
    with safe_open(tmp_path / "classifier.safetensors", "pt") as file:
        header = file.metadata()
        assert torch.equal(file.get_tensor("heads.shape.bias"), run.model.heads.shape.bias)
    assert header["classes"] == json.dumps(list("0123456789"))
    assert json.loads(header["result"])["epoch"] == 2
    scalars = read_scalars(tmp_path)
    assert scalars["metrics/accuracy"] == [
        (5 * result.epoch, pytest.approx(result.accuracy)) for result in results
    ]
    assert [step for step, _ in scalars["train/real_loss"]] == [1, 3, 5, 6, 8, 10]
    assert scalars["train/learning_rate"][0] == (1, pytest.approx(0.05))
    assert scalars["train/learning_rate"][3] == (6, pytest.approx(0.025))


def test_the_curves_show_every_head() -> None:
    result = EnsembleResult(1, 4.0, 1.0, 0.5, 1.0, 1.5, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    losses, accuracies = draw_curves([result]).axes
    drawn = [line.get_ydata()[0] for axes in (losses, accuracies) for line in axes.lines]
    assert drawn == pytest.approx([1.0, 0.5, 1.0, 1.5, 20, 30, 40, 50, 60])
    labels = [text.get_text() for text in accuracies.get_legend().get_texts()]
    assert labels == ["average", "background free", "shape", "texture", "background"]


# Interruption and resume -----------------------------------------------------------------------


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, first = make_run(), make_run(tmp_path)
    expected = whole.train(TESTS, progress=False)
    press_in_step(first, 6)
    with pytest.raises(KeyboardInterrupt):
        first.train(TESTS, progress=False)
    assert first.stream.state_dict()["total"] == 6
    second = make_run(tmp_path, seed=1)  # whose own weights have no part in it
    second.resume()
    assert second.train(TESTS, progress=False) == expected
    assert hash_weights(second.model) == hash_weights(whole.model)
    assert len(read_scalars(tmp_path)["train/loss"]) == 6


def test_resume_refuses_what_it_cannot_go_on_with(tmp_path: Path) -> None:
    make_run(tmp_path, num_epochs=1).train(TESTS, progress=False)
    with pytest.raises(CheckpointError, match=r"proportion.*then.*now"):
        make_run(tmp_path, num_epochs=1, ratio=0.5).resume()
    other = make_run(tmp_path, num_epochs=1)
    other.model.backbone[5] = torch.nn.Linear(32, 65)
    with pytest.raises(CheckpointError, match="holds other networks or states than"):
        other.resume()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mix": "append"}, r"mix='separate' and label='all', got mix='append' and label='all'"),
        ({"label": "shape"}, r"mix='separate' and label='all', got .* label='shape'"),
        ({"class_map": {3: 0, 12: 1}}, r"label 12 and the classifier only the labels 0 to 9"),
    ],
)
def test_a_stream_of_another_kind_is_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        EnsembleRun(make_tiny(), make_stream(**options))


def test_a_cgn_of_other_classes_needs_a_class_map() -> None:
    with pytest.raises(ArgumentError, match=r"draws 10 classes and the images have 3: say with cl"):
        EnsembleRun(make_tiny(num_classes=3), make_stream())
    EnsembleRun(make_tiny(num_classes=3), make_stream(class_map={0: 4, 1: [5, 6], 2: 9}))


def test_without_validation_images_there_is_nothing_to_say() -> None:
    with pytest.raises(ArgumentError, match="there are no validation images"):
        make_run(num_epochs=1).train([], progress=False)


# Several processes ------------------------------------------------------------------------------


def test_two_processes_train_one_ensemble_and_stop_together(tmp_path: Path) -> None:
    process = PROCESSES.Process(target=train_rank, args=(1, tmp_path))
    process.start()
    train_rank(0, tmp_path)
    process.join(60)
    assert process.exitcode == 0
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["weights"] == second["weights"]
    assert first["whole"] == second["whole"]
    assert first["stopped"] == second["stopped"] == 2  # the fifth step, of three an epoch
    assert first["resumed weights"] == second["resumed weights"] == first["weights"]
    for ours, theirs in zip(first["resumed"], first["whole"], strict=True):
        assert ours == pytest.approx(theirs)  # sums of two processes round in another order
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["stopped", "whole"]
    assert len(list((tmp_path / "whole").glob("events*"))) == 1


def test_an_ensemble_keeps_its_best_epoch_over_an_interruption(tmp_path: Path) -> None:
    groups = Groups((0,) * 12 + (1,) * 8, ("common", "rare"))

    def make(folder: Path | None, seed: int = 0) -> EnsembleRun:
        config = EnsembleConfig(num_epochs=3, learning_rate=0.05, batch_norm="train")
        chosen: dict[str, Any] = {"select": "worst_group", "test_groups": groups}
        return EnsembleRun(make_tiny(seed=seed), make_stream(), config, folder, **chosen)

    hashes: list[str] = []
    whole = make(None)
    results = whole.train(
        [show(20)[:]], progress=False, announce=lambda _: hashes.append(hash_weights(whole.model))
    )
    scores = [result.worst_group_accuracy for result in results]
    best = scores.index(max(scores))
    assert whole.best.epoch == best + 1
    assert hash_weights(whole.model) == hashes[best]
    first = make(tmp_path)
    press_in_step(first, 13)  # in the third epoch, of five steps each
    with pytest.raises(KeyboardInterrupt):
        first.train([show(20)[:]], progress=False)
    second = make(tmp_path, seed=1)
    second.resume()
    assert second.train([show(20)[:]], progress=False) == results
    assert hash_weights(second.model) == hashes[best]
    with safe_open(tmp_path / "classifier.safetensors", "pt") as written:
        kept = written.get_tensor("heads.shape.weight")
    assert torch.equal(kept, second.model.heads.shape.weight)


def test_a_choice_by_groups_that_are_not_known_is_an_error() -> None:
    with pytest.raises(ArgumentError, match="select worst_group needs the group"):
        EnsembleRun(make_tiny(), make_stream(), select="worst_group")
