"""Downloading published weights, from a server on this machine."""

from __future__ import annotations

import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import run_command

from cgn_augment.errors import ArgumentError, DataError
from train_generator.cli import program as cli
from train_generator.imagenet import weights
from train_generator.imagenet.weights import WEIGHT_FILES, WeightFile, fetch, fetch_all

CONTENT = bytes(range(256)) * 9000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves one file. `cut_after` ends an answer early; `etag` says which file it is."""

    content = CONTENT
    etag = '"one"'
    cut_after: int | None = None
    status: int | None = None
    asked: list[str | None]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        if self.server.status is not None:
            self.send_error(self.server.status)
            return
        start = 0
        if asked is not None and self.headers.get("If-Range") == self.server.etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        total = len(self.server.content)
        if start >= total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        part = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", self.server.etag)
        self.end_headers()
        self.wfile.write(part[: self.server.cut_after])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.asked = []
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def file(server: Server) -> WeightFile:
    url = f"http://127.0.0.1:{server.server_address[1]}/weights.bin"
    return WeightFile("weights.bin", "some weights", url, "the page", len(CONTENT), DIGEST)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_downloaded_checked_and_not_downloaded_again(
    server: Server, file: WeightFile, tmp_path: Path
) -> None:
    path = fetch(file, tmp_path / "new")
    assert path == tmp_path / "new" / "weights.bin"
    assert path.read_bytes() == CONTENT
    assert fetch(file, tmp_path / "new") == path
    assert server.asked == [None]
    assert names_in(tmp_path / "new") == ["weights.bin"]


def test_a_broken_download_is_gone_on_with(
    server: Server, file: WeightFile, tmp_path: Path
) -> None:
    server.cut_after = 1_000_000
    with pytest.raises(DataError, match=r"connection ended after 1000000 of 2304000 bytes\): repe"):
        fetch(file, tmp_path)
    assert names_in(tmp_path) == ["weights.bin.part", "weights.bin.part.json"]
    server.cut_after = None
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000000-"]
    assert names_in(tmp_path) == ["weights.bin"]


def test_a_download_of_another_file_starts_anew(
    server: Server, file: WeightFile, tmp_path: Path
) -> None:
    server.cut_after, server.content, server.etag = 1000, b"x" * 5000, '"old"'
    with pytest.raises(DataError, match="connection ended after 1000 of 5000"):
        fetch(file, tmp_path)
    server.cut_after, server.content, server.etag = None, CONTENT, '"one"'
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-"]


def test_a_download_that_was_stopped_at_its_very_end_is_kept(
    server: Server, file: WeightFile, tmp_path: Path
) -> None:
    (tmp_path / "weights.bin.part").write_bytes(CONTENT)
    (tmp_path / "weights.bin.part.json").write_text('{"etag": "\\"one\\""}')
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert names_in(tmp_path) == ["weights.bin"]


@pytest.mark.parametrize("mark", [None, "no JSON", "[]", '{"etag": ""}'])
def test_what_a_download_left_without_a_mark_is_not_trusted(
    mark: str | None, server: Server, file: WeightFile, tmp_path: Path
) -> None:
    (tmp_path / "weights.bin.part").write_bytes(b"of something else")
    if mark is not None:
        (tmp_path / "weights.bin.part.json").write_text(mark)
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"short", "not the published file: it has 5 bytes and not 2304000; remove .* the page"),
        (CONTENT[::-1], f"not the published file: its sha256 is .* and not {DIGEST}; remove"),
    ],
)
def test_another_file_is_an_error_whether_downloaded_or_there(
    content: bytes, message: str, server: Server, file: WeightFile, tmp_path: Path
) -> None:
    server.content = content
    with pytest.raises(DataError, match=message):
        fetch(file, tmp_path)
    assert not (tmp_path / "weights.bin").exists()
    (tmp_path / "weights.bin").write_bytes(content)
    with pytest.raises(DataError, match=message):
        fetch(file, tmp_path)


def test_no_server_and_a_refusal_say_what_to_do_by_hand(
    server: Server, file: WeightFile, tmp_path: Path
) -> None:
    by_hand = "or get the file from the page and save it as .*weights.bin"
    server.status = 404
    with pytest.raises(DataError, match=rf"cannot be downloaded \(404 Not Found\).* {by_hand}"):
        fetch(file, tmp_path)
    nobody = WeightFile("weights.bin", "some weights", "http://127.0.0.1:9/x", "the page")
    with pytest.raises(DataError, match=rf"\(\[Errno {111}\] Connection refused\).* {by_hand}"):
        fetch(nobody, tmp_path)
    assert names_in(tmp_path) == []


def test_several_are_fetched_and_all_problems_told(
    server: Server, file: WeightFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown_sum = WeightFile("other.bin", "others", file.url, "the page")
    monkeypatch.setattr(
        weights, "WEIGHT_FILES", {"one": file, "two": unknown_sum, "u2net": WEIGHT_FILES["u2net"]}
    )
    first, second = fetch_all(["one", "two", "one"], tmp_path)
    assert first == f"{tmp_path / 'weights.bin'}: sha256 {DIGEST} (as known)"
    assert second.endswith(f"other.bin: sha256 {DIGEST} (none is known to compare with)")
    with pytest.raises(DataError, match=r"u2net\.pth .* no address .* save it as .*weights\.bin"):
        fetch_all(["u2net", "one"], tmp_path)
    with pytest.raises(ArgumentError, match="files must be of one, two, u2net, got three"):
        fetch_all(["one", "three"], tmp_path)
    with pytest.raises(ArgumentError, match="got none"):
        fetch_all([], tmp_path)


def test_the_command_downloads_or_says_how(
    server: Server,
    file: WeightFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(weights, "WEIGHT_FILES", {**WEIGHT_FILES, "biggan-deep-256": file})
    only = "--files=biggan-deep-256"
    assert run_command(cli.main, monkeypatch, "fetch-weights", tmp_path, only) == 0
    assert DIGEST in capsys.readouterr().out
    assert run_command(cli.main, monkeypatch, "fetch-weights", tmp_path) == 2
    error = capsys.readouterr().err
    assert error.startswith("train-generator: error: u2net.pth")
    assert error.count("\n") == 1


def test_the_biggan_files_are_those_that_the_package_names() -> None:
    from pytorch_pretrained_biggan.model import PRETRAINED_MODEL_ARCHIVE_MAP

    urls = {name: file.url for name, file in WEIGHT_FILES.items() if name.startswith("biggan")}
    assert urls == PRETRAINED_MODEL_ARCHIVE_MAP


@pytest.mark.network
def test_the_published_biggan_is_still_there(tmp_path: Path) -> None:
    if not os.environ.get("CGN_DOWNLOAD"):
        pytest.skip("234 MB: set CGN_DOWNLOAD to download them")
    fetch(WEIGHT_FILES["biggan-deep-256"], tmp_path)
