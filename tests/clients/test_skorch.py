"""skorch's NeuralNet on a stream."""

from __future__ import annotations

from typing import Any

import torch
from client_helpers import Seen, TinyNet, expected, seen, stream
from skorch import NeuralNetClassifier
from stream_helpers import Digits


class Net(TinyNet):
    steps: list[Seen]

    def forward(self, images: Any) -> Any:
        self.steps.append(seen(images))
        return super().forward(images)


def test_it_fits_on_the_stream_epoch_by_epoch() -> None:
    steps: list[Seen] = []
    train = stream()
    net = NeuralNetClassifier(
        type("Recorder", (Net,), {"steps": steps}),
        criterion=torch.nn.CrossEntropyLoss,
        max_epochs=2,
        train_split=None,
        iterator_train=lambda dataset, **options: train,
        classes=range(10),
        verbose=0,
    )
    net.fit(train.dataset, None)
    assert steps == expected(2)
    net.partial_fit(Digits(20), None)
    assert steps == expected(4)
