"""Inception score, FID and mean mask, by hand with a network that says what is in a pixel."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from imagenet_helpers import make_reduced_cgn
from PIL import Image
from torch import Tensor, nn

from cgn_augment import files as files_module
from cgn_augment.errors import CheckpointError, DataError, FileError, MissingPackageError
from train_generator.imagenet.config import MetricsConfig
from train_generator.imagenet.metrics import CGNMeasures
from train_generator.metrics.inception import URL, InceptionMeasures, load_inception

pytest.importorskip("torchmetrics")


class Reader(nn.Module):
    """Features are the first pixel's red and green; the classes are as probable as they say."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        assert images.dtype == torch.uint8
        pixels = images[:, :2, 0, 0].float()
        return pixels, (pixels + 1).log()


def pictures(*pixels: tuple[int, int]) -> Tensor:
    """Images in [-1, 1] whose red and green are given in 0 to 255."""
    values = torch.tensor([[*pixel, 0] for pixel in pixels], dtype=torch.float32) / 127.5 - 1
    return values[:, :, None, None].expand(-1, -1, 4, 4)


def test_the_inception_score_has_its_closed_form() -> None:
    measures = InceptionMeasures(Reader(), splits=1)
    pixels = [(2, 0), (2, 0), (0, 2), (0, 0)]
    measures.update(pictures(*pixels[:3]))
    measures.update(pictures(*pixels[3:]))
    given = [((r + 1) / (r + g + 2), (g + 1) / (r + g + 2)) for r, g in pixels]
    mean = [sum(p[k] for p in given) / 4 for k in range(2)]
    divergence = sum(p[k] * math.log(p[k] / mean[k]) for p in given for k in range(2)) / 4
    values = measures.compute(seed=0)
    assert values == {"inception score": pytest.approx(math.exp(divergence), rel=1e-6)}
    # What was measured is forgotten.
    measures.update(pictures((3, 1), (3, 1)))
    assert measures.compute(seed=0)["inception score"] == pytest.approx(1.0)


def test_parts_are_scored_alone_and_follow_from_the_seed() -> None:
    measures = InceptionMeasures(Reader(), splits=2)
    before = torch.get_rng_state()
    found = []
    for seed in (0, 0, 1, 2, 3):
        measures.update(pictures((9, 0), (9, 0), (0, 9), (0, 9), (4, 1), (1, 4)))
        values = measures.compute(seed)
        found.append((values["inception score"], values["inception score deviation"]))
    assert found[0] == found[1]
    assert len(set(found)) > 1
    assert torch.equal(torch.get_rng_state(), before)


def test_the_fid_has_its_closed_form() -> None:
    measures = InceptionMeasures(Reader())
    real = torch.tensor([[10, 20], [10, 40], [30, 20], [30, 40]], dtype=torch.uint8)
    measures.add_real([torch.cat([real, real[:, :1]], dim=1)[:, :, None, None]])
    for shift in (0, 5):  # the same cloud, moved along one axis
        drawn = [(r + shift, g) for r, g in real.tolist()]
        measures.update(pictures(*drawn))
        assert measures.compute(seed=0)["fid"] == pytest.approx(shift**2, abs=1e-3)
    spread = [(20 + 2 * (r - 20), g) for r, g in real.tolist()]  # twice the deviation
    measures.update(pictures(*spread))
    deviation = math.sqrt(100 * 4 / 3)
    assert measures.compute(seed=0)["fid"] == pytest.approx(deviation**2, rel=1e-3)


def test_a_cgn_is_measured_by_what_it_composes() -> None:
    cgn = make_reduced_cgn()
    config = MetricsConfig(num_images=5, batch_size=2, splits=2)
    measures = CGNMeasures(config, cgn, network=Reader())
    values = measures()
    assert list(values) == ["mean mask", "inception score", "inception score deviation"]
    assert 1 <= values["inception score"] <= 2
    assert measures() == values
    # Neither the batch size nor a classifier changes what is drawn.
    alone = CGNMeasures(MetricsConfig(num_images=5, batch_size=5), cgn)()
    assert alone == {"mean mask": pytest.approx(values["mean mask"], rel=1e-5)}


def test_the_mean_mask_is_that_of_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    cgn = make_reduced_cgn()
    values = iter([0.1, 0.2, 0.6])

    def shape(noise: Tensor, y: Tensor) -> Tensor:
        return torch.stack([torch.full((1, 32, 32), next(values)) for _ in y])

    monkeypatch.setattr(cgn, "shape", shape)
    measures = CGNMeasures(MetricsConfig(num_images=3, batch_size=2), cgn)
    assert measures()["mean mask"] == pytest.approx(0.3)


def test_real_images_are_read_once(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (8, 6), (40 * number, 10, 0)).save(tmp_path / f"{number}.png")
    config = MetricsConfig(num_images=4, splits=2, inception="some file", real=str(tmp_path))
    measures = CGNMeasures(config, make_reduced_cgn(), network=Reader())
    first = measures()
    assert first["fid"] > 0
    for path in tmp_path.iterdir():
        path.unlink()
    assert measures() == first


def test_a_folder_that_cannot_be_used_is_an_error_before_anything_is_loaded(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    for folder, message in (
        (tmp_path / "missing", "no folder"),
        (tmp_path, "2 or more are needed"),
    ):
        config = MetricsConfig(inception="some file", real=str(folder))
        with pytest.raises(DataError, match=message):
            CGNMeasures(config, make_reduced_cgn())


# Inception-v3


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of torch.hub, which cannot download."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def refuse(*_: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(files_module, "_receive", refuse)
    return tmp_path / "hub" / "checkpoints"


def test_a_download_that_fails_says_where_to_put_the_file(hub: Path) -> None:
    with pytest.raises(CheckpointError) as raised:
        load_inception("download")
    message = str(raised.value)
    assert "Inception-v3 could not be downloaded (no network)" in message
    assert URL in message
    assert f"save it as {hub / 'weights-inception-2015-12-05-6726825d.pth'}" in message
    assert "leave metrics.inception out" in message


def test_weights_that_cannot_be_had_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"there is no file .*: pass torch-fidelity's"):
        load_inception(str(tmp_path / "missing.pth"))
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK")
    torch.save(Reader(), tmp_path / "code.pth")
    for name in ("other.pth", "cut.pth", "code.pth"):
        with pytest.raises(CheckpointError, match="does not hold torch-fidelity's weights"):
            load_inception(str(tmp_path / name))


def test_weights_of_the_right_form_give_both_features(tmp_path: Path) -> None:
    extractor = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    path = tmp_path / "random.pth"

    class Blank(extractor.FeatureExtractorInceptionV3):  # type: ignore[misc,name-defined]
        def load_state_dict(self, *_: Any, **__: Any) -> None:
            """Keeps the weights that it was made with."""

    torch.save({}, path)
    network = Blank("inception-v3-compat", ["2048"], str(path))
    torch.save(network.state_dict(), path)
    found = load_inception(str(path))
    with torch.no_grad():
        features, logits = found(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert (features.shape, logits.shape) == ((1, 2048), (1, 1008))


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", refuse)
    with pytest.raises(MissingPackageError, match=r"torch_fidelity: .* 'cgn-augment\[metrics\]'"):
        load_inception("download")
    with pytest.raises(MissingPackageError, match="need torchmetrics"):
        InceptionMeasures(Reader())
