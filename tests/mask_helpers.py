"""Images with dark objects, and models that find them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image
from torch import Tensor

SIZES = {"cat/1.png": (48, 64), "cat/2.jpg": (40, 40), "dog/a/3.png": (64, 30)}


def make_images(folder: Path) -> Path:
    """Images of several sizes, each with a dark box in it, in a tree of folders."""
    for name, (height, width) in SIZES.items():
        pixels = np.full((height, width, 3), 220, np.uint8)
        pixels[box(height, width)] = 10
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def box(height: int, width: int) -> tuple[slice, slice]:
    """Where the object of an image of this size is."""
    return slice(height // 4, height // 2), slice(width // 4, width // 2)


def read_mask(path: Path) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


def find_dark(images: Tensor) -> Tensor:
    """A masker of images in [-1, 1]."""
    return (images < 0).all(dim=1, keepdim=True).float()


def write_onnx(path: Path, batch: int | str, size: int | str, scale: float = 1.0) -> Path:
    """A model whose answer is the mean of the three channels, scaled; its input may be fixed."""
    given = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [batch, 3, size, size])
    answer = helper.make_tensor_value_info("mask", TensorProto.FLOAT, [batch, 1, size, size])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    factor = helper.make_tensor("factor", TensorProto.FLOAT, [], [scale])
    nodes = [
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=1),
        helper.make_node("Mul", ["mean", "factor"], ["mask"]),
    ]
    graph = helper.make_graph(nodes, "mean", [given], [answer], [axes, factor])
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    return path
