"""The one finder of image files: what it finds, what it leaves out, and how a file is read."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from cgn_augment.errors import DataError
from cgn_augment.images.finding import find_images, find_labelled_images, name_some, read_image
from cgn_augment.images.reading import open_image, to_rgb


def save(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), 7).save(path, "PNG")
    return path


def test_links_are_followed_hidden_files_are_not_and_capitals_do_not_matter(tmp_path: Path) -> None:
    outside = save(tmp_path / "outside" / "linked" / "5.png").parents[1]
    folder = tmp_path / "images"
    for name in ("b.JPEG", "a/2.Png", "a/.hidden.png", ".hidden/3.png", "a.webp"):
        save(folder / name)
    (folder / "notes.txt").touch()
    (folder / "z.png").mkdir()  # a folder, whatever it is called
    (folder / "linked").symlink_to(outside)
    (folder / "a" / "round").symlink_to(folder)  # ends, and shows nothing twice
    found = [str(path.relative_to(folder)) for path in find_images(folder)]
    assert found == ["a/2.Png", "a.webp", "b.JPEG", "linked/linked/5.png"]


def test_images_of_other_formats_are_not_passed_over_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("cat/1.png", "cat/2.HEIC", "cat/3.heic", "dog/1.gif", "dog/.2.gif", "dog/a.txt"):
        save(tmp_path / name)
    with pytest.raises(DataError, match=r"in dog; 3 images \(1 \.gif, 2 \.heic\) are left out"):
        find_labelled_images(tmp_path)
    with pytest.raises(DataError, match=r"2 or more are needed; 3 images .* to JPEG or PNG"):
        find_images(tmp_path, least=2)
    save(tmp_path / "dog/2.jpg")
    assert not caplog.records
    for find in (find_labelled_images, find_images):
        caplog.clear()
        find(tmp_path)  # type: ignore[operator]
        (record,) = caplog.records
        assert record.getMessage() == (
            f"{tmp_path}: 3 images (1 .gif, 2 .heic) are left out, since their formats are not "
            "read: convert them to JPEG or PNG"
        )


def test_labels_go_by_the_names_of_the_folders(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/deep/2.png", "cat/1.png", ".cache/1.png"):
        save(tmp_path / name)
    save(tmp_path / "loose.png")
    paths, labels, classes = find_labelled_images(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        "cat/1.png",
        "cat/deep/2.png",
        "dog/1.png",
    ]
    assert (labels, classes) == ((0, 0, 1), ("cat", "dog"))


def test_folders_without_images_are_errors(tmp_path: Path) -> None:
    for find in (find_images, find_labelled_images):
        with pytest.raises(DataError, match=r"there is no folder .*nowhere"):
            find(tmp_path / "nowhere")
    with pytest.raises(DataError, match="has no folders of classes"):
        find_labelled_images(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match=r"has no image in cat. Expected: .*FOLDER/cat/1.jpg"):
        find_labelled_images(tmp_path)
    save(tmp_path / "cat" / "1.png")
    with pytest.raises(DataError, match=r"holds 1 images \(.*\), and 2 or more are needed"):
        find_images(tmp_path, least=2)


@pytest.mark.parametrize("damage", [b"no image", b"", b"\x89PNG\r\n\x1a\n", None])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, damage: bytes | None) -> None:
    path = save(tmp_path / "1.png")
    assert (read_image(path).mode, read_image(path).getpixel((0, 0))) == ("RGB", (7, 7, 7))
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    with pytest.raises(DataError, match=r"1\.png cannot be read as an image: replace or remove it"):
        read_image(path)


def as_eps() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "EPS")
    return file.getvalue()


@pytest.mark.parametrize("as_bytes", [True, False])
def test_a_picture_of_another_kind_under_the_name_of_an_image_starts_no_program(
    as_bytes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    monkeypatch.setattr(
        "PIL.EpsImagePlugin.Ghostscript",
        lambda *a, **k: started.append(a) or Image.new("L", (1, 1)),
    )
    path = tmp_path / "1.png"
    path.write_bytes(as_eps())
    with pytest.raises((DataError, OSError), match="cannot"):
        to_rgb(open_image(path.read_bytes())) if as_bytes else read_image(path)
    assert started == []


def test_long_lists_of_names_are_cut() -> None:
    assert name_some(["a", "b"]) == "a, b"
    assert name_some(list("abcdefg")) == "a, b, c, d, e and 2 more"


def test_a_maze_of_links_and_a_shaft_of_folders_end(tmp_path: Path) -> None:
    for level in range(40):
        (tmp_path / f"{level}").mkdir()
        for name in "ab":
            (tmp_path / f"{level}" / name).symlink_to(tmp_path / f"{level + 1}")
    (tmp_path / "40").mkdir()
    with pytest.raises(DataError, match="links lead there again and again"):
        find_images(tmp_path / "0")
    (tmp_path / "deep" / "/".join("d" * 200)).mkdir(parents=True)
    with pytest.raises(DataError, match="it lies too deep"):
        find_images(tmp_path / "deep")
