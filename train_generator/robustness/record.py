"""The file of an evaluation: results by classifier, with the settings they were measured with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cgn_augment.errors import CheckpointError
from cgn_augment.files import parse_json, replacing
from train_generator.training.checkpoints import describe_differences

Rows = dict[str, dict[str, Any]]
"""Results by output, for JSON."""


class EvaluationRecord:
    """Results by classifier and part; written after each part.

    Args:
        path: a .json file, read if it exists; its folder exists.

    Raises:
        CheckpointError: the file does not hold an evaluation.

    Examples:
        >>> from train_generator.robustness import EvaluationRecord
        >>> path = getfixture("tmp_path") / "evaluation.json"
        >>> record = EvaluationRecord(path)
        >>> record.add("resnet50", "real", {"folder": "val"}, {"logits": {"accuracy": 0.8}})
        >>> EvaluationRecord(path).find("resnet50", "real", {"folder": "val"})
        {'logits': {'accuracy': 0.8}}
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._results: dict[str, dict[str, dict[str, Any]]] = {}
        if not path.is_file():
            return
        try:
            self._results = parse_json(path.read_text())["classifiers"]
            for parts in self._results.values():
                for part in parts.values():
                    dict(part["settings"]), dict(part["rows"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path} holds no evaluation, or is cut off: delete it"
            ) from error

    def find(self, classifier: str, part: str, settings: Mapping[str, object]) -> Rows | None:
        """Returns the results of a part, or None if it is not measured yet.

        Args:
            classifier: name of the classifier.
            part: name of the part.
            settings: settings of the part.

        Raises:
            CheckpointError: it was measured with other settings.
        """
        found = self._results.get(classifier, {}).get(part)
        if found is None:
            return None
        changed = describe_differences(found["settings"], json.loads(json.dumps(settings)))
        if changed:
            raise CheckpointError(
                f"{self.path} has {part} of {classifier} with other settings "
                f"({changed}): name another folder, or delete the file"
            )
        rows: Rows = found["rows"]
        return rows

    def add(self, classifier: str, part: str, settings: Mapping[str, object], rows: Rows) -> None:
        """Adds results and writes the file, whole or not at all.

        Args:
            classifier: name of the classifier.
            part: name of the part.
            settings: settings of the part.
            rows: its results.

        Raises:
            OSError: the folder is missing or cannot be written.
        """
        self._results.setdefault(classifier, {})[part] = {
            "settings": dict(settings),
            "rows": rows,
            "versions": {name: version(name) for name in ("cgn-augment", "torch", "torchvision")},
        }
        text = json.dumps({"classifiers": self._results}, indent=2, allow_nan=False)
        with replacing(self.path) as temporary:
            temporary.write_text(f"{text}\n")
