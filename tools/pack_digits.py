"""Writes `train_generator/mnist/digits.npz` from MNIST's training files.

    python tools/pack_digits.py FOLDER

FOLDER holds `train-images-idx3-ubyte.gz` and `train-labels-idx1-ubyte.gz`, as published. The digits
are binary, so one bit per pixel is enough: 1.7 MB for all 60 000. The same input gives the same
file, byte for byte, with the same build of zlib.
"""

from __future__ import annotations

import argparse
import gzip
import io
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

UBYTE_MAGIC = 0x0800  # two zero bytes, "unsigned byte", then the number of dimensions
THRESHOLD = 0.1
OUTPUT = Path(__file__).resolve().parents[1] / "train_generator" / "mnist" / "digits.npz"


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Read a compressed IDX file of unsigned bytes, of any number of dimensions."""
    if not path.is_file():
        raise SystemExit(f"{path} is missing: give the folder that holds MNIST's IDX files as .gz")
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise SystemExit(f"{path} cannot be unpacked: fetch it again ({error})") from error
    num_dims = content[3] if len(content) > 3 else 0
    header = np.frombuffer(content, dtype=">u4", count=min(1 + num_dims, len(content) // 4))
    if len(header) != 1 + num_dims or header[0] != UBYTE_MAGIC + num_dims:
        raise SystemExit(f"{path} is not an IDX file of unsigned bytes: fetch it again")
    shape = tuple(int(size) for size in header[1:])
    data = np.frombuffer(content, dtype=np.uint8, offset=header.nbytes)
    if data.size != math.prod(shape):
        raise SystemExit(f"{path} is cut short: {data.size} bytes for {shape}; fetch it again")
    return data.reshape(shape)


def pack(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Binarise `(N, 28, 28) uint8` at > 0.1 of full white: `(N, 98) uint8`, eight pixels a byte."""
    return np.packbits((images / 255 > THRESHOLD).reshape(len(images), -1), axis=1)


def write_npz(path: Path, arrays: dict[str, npt.NDArray[np.uint8]]) -> None:
    """Write a compressed npz whose bytes depend on the arrays alone.

    `np.savez_compressed` promises no fixed time stamps or permissions; here they are set.
    """
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            member.create_system = 3
            member.external_attr = 0o644 << 16
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
            archive.writestr(member, buffer.getvalue(), compresslevel=9)


def main() -> None:
    """Parse the command line and write the file."""
    parser = argparse.ArgumentParser(description="Pack MNIST's training digits into one npz file.")
    parser.add_argument("folder", type=Path, help="folder with MNIST's IDX files as .gz")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="default: %(default)s")
    arguments = parser.parse_args()
    images = read_idx(arguments.folder / "train-images-idx3-ubyte.gz")
    labels = read_idx(arguments.folder / "train-labels-idx1-ubyte.gz")
    write_npz(arguments.output, {"bits": pack(images), "labels": labels})
    print(f"{arguments.output}: {len(labels)} digits, {arguments.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
