"""Downloading published weights, from a server on this machine."""

from __future__ import annotations

import hashlib
import http.server
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.request import Request

import pytest
from conftest import run_command
from file_helpers import FORKS, names_in

from cgn_augment import files as files_module
from cgn_augment.errors import ArgumentError, CheckpointError
from train_generator.cli import program as cli
from train_generator.imagenet import weights
from train_generator.imagenet.weights import WEIGHT_FILES, WeightFile, fetch, fetch_all

CONTENT = bytes(range(256)) * 9000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves one file. `cut_after` ends an answer early."""

    content = CONTENT
    cut_after: int | None = None
    status: int | None = None
    num_asked = 0
    announces = True
    seconds = 0.0


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.send_response(200)
        if self.server.announces:
            self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()

    def do_GET(self) -> None:
        self.server.num_asked += 1
        if self.server.status is not None:
            self.send_error(self.server.status)
            return
        time.sleep(self.server.seconds)
        self.do_HEAD()
        self.wfile.write(self.server.content[: self.server.cut_after])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def file(server: Server) -> WeightFile:
    url = f"http://127.0.0.1:{server.server_address[1]}/weights.bin"
    return WeightFile("weights.bin", "some weights", url, "the page", DIGEST)


def test_a_file_is_downloaded_checked_and_not_downloaded_again(
    server: Server, file: WeightFile, tmp_path: Path
) -> None:
    path = fetch(file, tmp_path / "new")
    assert path == tmp_path / "new" / "weights.bin"
    assert path.read_bytes() == CONTENT
    assert fetch(file, tmp_path / "new") == path
    assert server.num_asked == 1
    assert names_in(tmp_path / "new") == ["weights.bin"]


@pytest.mark.parametrize("known", [True, False])
def test_a_broken_download_leaves_nothing_and_can_be_repeated(
    known: bool, server: Server, file: WeightFile, tmp_path: Path
) -> None:
    file = file if known else replace(file, sha256=None)
    server.cut_after = 1_000_000
    with pytest.raises(CheckpointError, match=r"ended after 1000000 of 2304000 bytes\): repeat"):
        fetch(file, tmp_path)
    assert names_in(tmp_path) == []
    server.cut_after = None
    assert fetch(file, tmp_path).read_bytes() == CONTENT


def test_another_file_is_an_error_whether_downloaded_or_there(
    server: Server, file: WeightFile, tmp_path: Path
) -> None:
    server.content = CONTENT[::-1]
    with pytest.raises(CheckpointError, match=rf"its sha256 is .* and not {DIGEST}\): repeat"):
        fetch(file, tmp_path)
    (tmp_path / "weights.bin").write_bytes(server.content)
    with pytest.raises(CheckpointError, match=f"sha256 is .* and not {DIGEST}; remove it .* page"):
        fetch(file, tmp_path)


def test_a_body_without_an_end_is_not_received(
    server: Server, file: WeightFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "_LARGEST_DOWNLOAD", 10**6)
    server.announces = False
    with pytest.raises(CheckpointError, match=r"sends more than the .* bytes expected"):
        fetch(file, tmp_path)
    assert names_in(tmp_path) == []


def test_no_redirect_leads_from_https_to_http() -> None:
    def redirect(url: str, to: str) -> Request | None:
        handler = files_module._Encrypted()
        return handler.redirect_request(Request(url), None, 302, "", {}, to)

    assert redirect("https://a/x", "https://b/x") is not None
    assert redirect("http://a/x", "http://b/x") is not None
    for to in ("http://b/x", "ftp://b/x"):
        with pytest.raises(OSError, match=f"sends on to {to}, which is not encrypted"):
            redirect("https://a/x", to)


@pytest.mark.parametrize("link", ["", ".part", ".partial", ".tmp"])
def test_no_link_under_the_name_of_a_download_is_written_through(
    link: str, file: WeightFile, tmp_path: Path
) -> None:
    precious, folder = tmp_path / "precious", tmp_path / "weights"
    precious.write_text("mine")
    precious.chmod(0o600)
    folder.mkdir()
    (folder / f"weights.bin{link}").symlink_to(precious if link else tmp_path / "nowhere")
    assert fetch(file, folder).read_bytes() == CONTENT
    assert not (folder / "weights.bin").is_symlink()
    assert precious.read_text() == "mine"
    assert names_in(tmp_path) == ["precious", "weights"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_two_processes_that_want_a_file_fetch_it_once(
    server: Server, file: WeightFile, tmp_path: Path
) -> None:
    server.seconds = 0.3
    processes = [FORKS.Process(target=fetch, args=(file, tmp_path)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert server.num_asked == 1
    assert names_in(tmp_path) == ["weights.bin"]


def test_no_server_and_a_refusal_say_what_to_do_by_hand(
    server: Server, file: WeightFile, tmp_path: Path
) -> None:
    by_hand = "or get the file from the page, and save it as .*weights.bin"
    server.status = 404
    with pytest.raises(
        CheckpointError, match=rf"could not be downloaded \(HTTP Error 404: Not Found\).* {by_hand}"
    ):
        fetch(file, tmp_path)
    nobody = WeightFile("weights.bin", "some weights", "http://127.0.0.1:9/x", "the page")
    with pytest.raises(CheckpointError, match=rf"Connection refused.* {by_hand}"):
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
    with pytest.raises(
        CheckpointError, match=r"u2net\.pth .* no address .* save it as .*weights\.bin"
    ):
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
