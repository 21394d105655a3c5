"""Weights that torch.hub keeps, and that are downloaded where they are not there."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path

import torch

from cgn_augment.errors import CheckpointError
from cgn_augment.files import first_line


def fetch_to_hub(url: str, what: str, advice: str = "", progress: bool = True) -> Path:
    """Returns the path of weights in torch.hub's folder, and downloads them if they are not there.

    Args:
        url: whose file name ends in a dash and the first digits of its sha256, as torch.hub has it.
        what: they are of, for the message.
        advice: what else can be done where there is no network.
        progress: shows a bar on standard error.

    Raises:
        CheckpointError: the download failed; the message says where to put the file by hand.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if path.is_file():
        return path
    hash_prefix = path.stem.split("-")[-1]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix, progress)
    except (OSError, HTTPException, RuntimeError) as error:
        raise CheckpointError(
            f"the weights of {what} could not be downloaded ({first_line(error)}): fetch {url} "
            f"where there is a network and pass its path, or copy it to {path}. {advice}".rstrip()
        ) from error
    return path
