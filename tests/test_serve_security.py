"""What strangers may send: pickles with code, bombs, paths for names, and urls that point inside."""

from __future__ import annotations

import io
import os
import pickle
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from PIL import Image as PillowImage
from served_model import micro_checkpoint, photo, png

from hrda_core.models.checkpoints import save_checkpoint
from serve_app import safe_urls
from serve_app.engine import Engine
from serve_app.gate import add_gate
from serve_app.limits import Limits, Refused, check_image_bytes, decode_checked, image_size
from serve_app.safe_checkpoints import UnsafeCheckpoint, check_checkpoint, forbid_unsafe_unpickling
from serve_app.safe_urls import fetch_image, safe_file_name
from serve_app.service import Service

# -- checkpoints ------------------------------------------------------------------------------------------------------


class Payload:
    """Unpickled with code, it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def zip_pickle(path: Path, content: Any) -> None:
    torch.save(content, path)


def old_pickle(path: Path, content: Any) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def bare_pickle(path: Path, content: Any) -> None:
    path.write_bytes(pickle.dumps(content))


def tar_of_pickles(path: Path, content: Any) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(content)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


WAYS = [zip_pickle, old_pickle, bare_pickle, tar_of_pickles]


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "payload-has-run"


@pytest.mark.parametrize("save", WAYS)
@pytest.mark.parametrize("place", ["teacher", "model_info", "whole"])
def test_a_checkpoint_with_code_is_refused_and_the_code_not_run(
    save: Callable[[Path, Any], None], place: str, tmp_path: Path, marker: Path
) -> None:
    path, payload = tmp_path / "best.pth", Payload(marker)
    save(path, payload if place == "whole" else {**micro_checkpoint(), place: payload})
    for use in (check_checkpoint, Engine):
        with pytest.raises(UnsafeCheckpoint, match=r"cannot be read|tar archive"):
            use(path)
    assert not marker.exists()


@pytest.mark.parametrize("save", WAYS)
def test_the_sdk_cannot_unpickle_code_either(
    save: Callable[[Path, Any], None], tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from supervisely.nn.inference.inference import torch_load_safe

    monkeypatch.setattr(torch, "load", torch.load)  # put back after the test
    path = tmp_path / "best.pth"
    save(path, {"model_info": Payload(marker)})
    forbid_unsafe_unpickling()
    forbid_unsafe_unpickling()
    with pytest.raises(Exception):  # noqa: B017 (PyTorch's types differ by the format)
        torch_load_safe(str(path))
    for options in ({"weights_only": False}, {"weights_only": False, "pickle_module": pickle}):
        with pytest.raises(Exception):  # noqa: B017
            torch.load(path, **options)
    assert not marker.exists()
    good = save_checkpoint(tmp_path / "good.pth", micro_checkpoint())
    assert torch_load_safe(str(good))["selected"] == "teacher"


def test_the_payload_of_these_tests_does_run_where_nothing_forbids_it(tmp_path: Path, marker: Path) -> None:
    zip_pickle(tmp_path / "best.pth", Payload(marker))
    # in a process of its own: in this one an app of another test may have forbidden it
    load = "import sys, torch; torch.load(sys.argv[1], weights_only=False)"
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", load, tmp_path / "best.pth"], env=variables, check=True)
    assert marker.exists()


@pytest.mark.parametrize("encoder", ["test_efficientnet", "mit_b0"])
def test_checkpoints_of_ours_pass(encoder: str, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "best.pth", micro_checkpoint(encoder=encoder))
    assert check_checkpoint(str(path)) == path


def test_public_weights_pass(tmp_path: Path) -> None:
    for save, content in (
        (zip_pickle, {"backbone.norm1.weight": torch.ones(3)}),
        (old_pickle, {"state_dict": {"a": torch.ones(3)}}),
    ):
        save(tmp_path / "mit_b0.pth", content)
        assert check_checkpoint(tmp_path / "mit_b0.pth").name == "mit_b0.pth"


def test_a_checkpoint_as_the_platform_saves_it_again_passes(tmp_path: Path) -> None:
    more = {
        "model_info": {"model_name": "HRDA", "task_type": "semantic segmentation"},
        "model_meta": {"classes": []},
        "model_files": {"config": {"name": "config.yaml", "content": "a: 1"}},
    }
    torch.save({**micro_checkpoint(), **more}, tmp_path / "best.pth")
    check_checkpoint(tmp_path / "best.pth")


@pytest.mark.parametrize("name", ["../run.sh", "/etc/cron.d/x", "a/b", "a\\b", "..", ".bashrc", "", "x" * 300, "a\0b", 5, None])
def test_embedded_files_with_paths_for_names_are_refused(name: Any, tmp_path: Path) -> None:
    torch.save({**micro_checkpoint(), "model_files": {"config": {"name": name, "content": "x"}}}, tmp_path / "best.pth")
    with pytest.raises(UnsafeCheckpoint, match="has no plain name"):
        check_checkpoint(tmp_path / "best.pth")


def test_an_archive_that_unpacks_to_more_than_it_is(tmp_path: Path) -> None:
    source, bomb = save_checkpoint(tmp_path / "good.pth", micro_checkpoint()), tmp_path / "bomb.pth"
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in whole.infolist():
            packed.writestr(entry.filename, whole.read(entry))
        packed.writestr("good/data/999", bytes(50 * 2**20))
    assert bomb.stat().st_size < 2**21
    with pytest.raises(UnsafeCheckpoint, match="unpacks to more than it is"):
        check_checkpoint(bomb)


def test_a_tensor_that_claims_more_than_the_file_holds(tmp_path: Path) -> None:
    content = micro_checkpoint()
    content["teacher"]["extra"] = torch.zeros(1).expand(2**20, 2**20)  # 4 bytes in the file, 4 TB to work with
    torch.save(content, tmp_path / "best.pth")
    with pytest.raises(UnsafeCheckpoint, match=r"tensor teacher.extra claims \(1048576, 1048576\)"):
        check_checkpoint(tmp_path / "best.pth")


@pytest.mark.parametrize(
    ("part", "name", "value", "text"),
    [
        ("model_config", "pretrained", True, "would fetch weights"),
        ("model_config", "pretrained", "/etc/passwd", "would fetch weights"),
        ("model_config", "encoder", "hf-hub:someone/something", "cannot be built"),
        ("model_config", "encoder", "../../etc", "cannot be built"),
        ("model_config", "head_channels", 2**20, "not those of its network"),
        ("model_config", "unknown", 1, "cannot be built"),
        ("preprocessing", "window", [10**6, 10**6], "preprocessing.window"),
        ("preprocessing", "tile_batch", 10**9, "preprocessing.tile_batch"),
        ("preprocessing", "scale", 1e9, "preprocessing.scale"),
        ("preprocessing", "scale", "1", "preprocessing.scale"),
    ],
)
def test_a_checkpoint_that_asks_for_too_much_or_for_something_from_outside(
    part: str, name: str, value: Any, text: str, tmp_path: Path
) -> None:
    content = micro_checkpoint()
    content[part] = {**content[part], name: value}
    with pytest.raises(UnsafeCheckpoint, match=text):
        check_checkpoint(save_checkpoint(tmp_path / "best.pth", content))


@pytest.mark.parametrize("name", ["missing.pth", "run.sh", "..", ""])
def test_what_is_no_checkpoint_by_its_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "run.sh").write_text("x")
    with pytest.raises(UnsafeCheckpoint, match=r"there is no such file|is no checkpoint by its name"):
        check_checkpoint(tmp_path / name)


def test_a_file_above_the_limit_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRDA_MAX_CHECKPOINT_MB", "0.001")
    path = save_checkpoint(tmp_path / "best.pth", micro_checkpoint())
    with pytest.raises(UnsafeCheckpoint, match="raise HRDA_MAX_CHECKPOINT_MB"):
        check_checkpoint(path)


def test_damaged_files_are_refused_in_words(tmp_path: Path) -> None:
    whole = save_checkpoint(tmp_path / "good.pth", micro_checkpoint()).read_bytes()
    rng = np.random.default_rng(0)
    for number in range(20):
        broken = bytearray(whole[: rng.integers(0, len(whole))] if number % 2 else whole)
        for place in rng.integers(0, max(len(broken), 1), 30):
            broken[place : place + 1] = rng.bytes(1)
        path = tmp_path / "broken.pth"
        path.write_bytes(broken)
        try:
            check_checkpoint(path)
        except UnsafeCheckpoint as error:
            assert str(path) in str(error)


# -- images -----------------------------------------------------------------------------------------------------------


def png_of_zeros(width: int, height: int, rows: int) -> bytes:
    """Claims width x height pixels and holds `rows` of them."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((width + 1) * rows), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(30_000, 30_000), (2**31 - 1, 2**31 - 1), (2**27, 1), (60_000, 1)])
def test_a_small_file_of_many_pixels_is_refused_by_its_header(width: int, height: int) -> None:
    bomb = png_of_zeros(width, height, 50 if width < 10**5 else 0)
    assert len(bomb) < 10_000
    before, start = psutil.Process().memory_info().rss, time.monotonic()
    with pytest.raises(Refused, match=r"megapixels|a side of more than") as error:
        decode_checked(bomb, Limits())
    assert error.value.status == 413
    assert time.monotonic() - start < 0.5
    assert psutil.Process().memory_info().rss - before < 20 * 2**20


def test_text_in_a_png_that_unpacks_to_much_more() -> None:
    text = b"comment\0\0" + zlib.compress(bytes(200 * 2**20), 9)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    plain = png(photo(8, 8))
    tracemalloc.start()
    with suppress(Refused):
        decode_checked(plain[:33] + chunk + plain[33:], Limits())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"big_tiff": True}),
        ("BMP", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}),
    ],
)
def test_the_size_that_the_header_tells_is_that_of_the_image(kind: str, options: dict[str, Any]) -> None:
    file = io.BytesIO()
    PillowImage.fromarray(photo(37, 53)).save(file, kind, **options)
    assert image_size(file.getvalue()) == (37, 53)
    assert decode_checked(file.getvalue(), Limits()).shape == (37, 53, 3)
    with pytest.raises(Refused, match="megapixels"):
        check_image_bytes(file.getvalue(), Limits(megapixels=0.001))


def test_cut_and_scrambled_files_are_refused_or_decoded() -> None:
    rng, good = np.random.default_rng(0), []
    for kind in ("PNG", "JPEG", "TIFF", "BMP", "WEBP"):
        file = io.BytesIO()
        PillowImage.fromarray(photo(37, 53)).save(file, kind)
        good.append(file.getvalue())
    for number in range(100):
        content = bytearray(good[number % len(good)])
        for place in rng.integers(0, min(len(content), 200), 3):
            content[place] = rng.integers(256)
        try:
            image = decode_checked(bytes(content[: rng.integers(len(content) // 2, len(content) + 1)]), Limits(megapixels=4))
            assert image.shape[0] * image.shape[1] <= 4e6
        except Refused as refused:
            assert refused.status in (400, 413)


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("photo.jpg", "photo.jpg"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("/abs/olute.png", "olute.png"),
        ("C:\\x.png", "x.png"),
        ("..", "image"),
        ("", "image"),
        (None, "image"),
        (".hidden", "hidden"),
        ("a\x00b\n.png", "a_b_.png"),
        ("%2e%2e%2fx.png", "_2e_2e_2fx.png"),
        ("Brücke 3 (Süd).jpeg", "Brücke 3 (Süd).jpeg"),
        ("a;rm -rf $HOME.png", "a_rm -rf _HOME.png"),
        ("x" * 500 + ".png", "x" * 100 + ".png"),
        ("a." + "y" * 500, "a." + "y" * 10),
    ],
)
def test_names_stay_in_their_folder(name: str | None, safe: str, tmp_path: Path) -> None:
    assert safe_file_name(name) == safe
    assert (tmp_path / safe_file_name(name)).resolve().parent == tmp_path.resolve()


# -- urls -------------------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """A server of images, and of mischief."""

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["Host"]))  # type: ignore[attr-defined]
        port = self.server.server_address[1]
        image = png(photo(20, 30))
        if self.path == "/image.png":
            self._answer(image)
        elif self.path == "/moved":
            self._redirect("/image.png")
        elif self.path == "/inside":
            self._redirect("http://169.254.169.254/latest/meta-data/")
        elif self.path == "/file":
            self._redirect("file:///etc/passwd")
        elif self.path == "/loop":
            self._redirect(f"http://localhost:{port}/loop")
        elif self.path == "/large":
            self._answer(bytes(2**20))
        elif self.path == "/large-without-length":
            self._answer(bytes(2**20), length=False)
        elif self.path == "/cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 10)
        elif self.path == "/slow":
            self._drip(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 1000)
        elif self.path == "/slow-head":
            self._drip(b"HTTP/1.0 200 OK\r\nX-Long: " + b"x" * 1000)
        else:
            self.send_error(404)

    def _answer(self, content: bytes, length: bool = True) -> None:
        self.send_response(200)
        if length:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _redirect(self, to: str) -> None:
        self.send_response(302)
        self.send_header("Location", to)
        self.end_headers()

    def _drip(self, content: bytes) -> None:
        """A byte every 50 ms: every read of the socket succeeds in time."""
        for position in range(len(content)):
            try:
                self.wfile.write(content[position : position + 1])
            except OSError:
                return
            time.sleep(0.05)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def web() -> Iterator[tuple[str, list[Any]]]:
    """The address of the server, and what it was asked: (path, Host)."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []  # type: ignore[attr-defined]
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_address[1]}", server.asked  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


def resolve_to(addresses: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every name has these addresses; returns the list of names that are looked up."""
    asked: list[str] = []

    def look_up(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0.0.0.0",
        "localhost",
        "169.254.169.254",
        "10.0.0.1",
        "172.16.5.5",
        "192.168.1.1",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[ff02::1]",
        "168.63.129.16",
        "192.0.0.9",
        "[fec0::1]",
    ],
)
def test_addresses_that_are_not_public_are_refused(host: str) -> None:
    with pytest.raises(Refused, match=r"which is not public|is not known") as error:
        fetch_image(f"http://{host}/image.png", 1000)
    assert error.value.status == 400


@pytest.mark.parametrize("addresses", [["10.1.2.3"], ["::1"], ["93.184.215.14", "127.0.0.1"]])
def test_a_name_that_resolves_to_a_private_address_is_refused(addresses: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(addresses, monkeypatch)
    with pytest.raises(Refused, match=r"'innocent\.example' has the address .*HRDA_ALLOW_PRIVATE_URLS=1"):
        fetch_image("https://innocent.example/image.png", 1000)


def test_the_address_that_was_looked_at_is_the_one_that_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server may give a public address first and a private one at the second question: there is none."""
    asked = resolve_to(["93.184.215.14"], monkeypatch)
    reached: list[Any] = []

    def connect(address: Any, *_: Any) -> None:
        reached.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(Refused, match="could not be fetched"):
        fetch_image("http://rebinding.example:8080/image.png", 1000)
    assert asked == ["rebinding.example"]
    assert reached == [("93.184.215.14", 8080)]


def test_private_addresses_may_be_allowed(web: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    address, asked = web
    with pytest.raises(Refused, match="not public"):
        fetch_image(f"{address}/image.png", 10_000)
    monkeypatch.setenv("HRDA_ALLOW_PRIVATE_URLS", "1")
    assert fetch_image(f"{address}/image.png", 10_000) == png(photo(20, 30))
    assert asked[-1] == ("/image.png", address.removeprefix("http://"))  # the host's name, not the address
    assert fetch_image(f"{address}/moved", 10_000) == png(photo(20, 30))


def test_redirects_pass_the_same_door(web: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    address = web[0]
    monkeypatch.setattr(safe_urls, "_is_public", lambda ip: ip in ("127.0.0.1", "::1"))
    with pytest.raises(Refused, match=r"169\.254\.169\.254, which is not public"):
        fetch_image(f"{address}/inside", 10_000)
    with pytest.raises(Refused, match="use an http or https address"):
        fetch_image(f"{address}/file", 10_000)
    with pytest.raises(Refused, match="redirected more than 3 times"):
        fetch_image(f"{address}/loop", 10_000)


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/large", 413, "more than 0.0"),
        ("/large-without-length", 413, "more than 0.0"),
        ("/cut", 400, "could not be fetched|cut off"),
        ("/missing", 400, "answers 404"),
    ],
)
def test_what_a_server_may_send(web: tuple[str, list[Any]], path: str, status: int, text: str) -> None:
    with pytest.raises(Refused, match=text) as error:
        fetch_image(web[0] + path, 10_000, allow_private=True)
    assert error.value.status == status


@pytest.mark.parametrize("path", ["/slow", "/slow-head"])
def test_a_server_that_drips_is_given_up_in_time(web: tuple[str, list[Any]], path: str) -> None:
    start = time.monotonic()
    with pytest.raises(Refused, match="takes too long"):
        fetch_image(web[0] + path, 10_000, seconds=0.4, allow_private=True)
    assert time.monotonic() - start < 2


def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for scheme in ("http", "https"):
            start = time.monotonic()
            with pytest.raises(Refused, match="takes too long"):
                fetch_image(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/", 1000, seconds=0.4, allow_private=True)
            assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    "url",
    [
        "",
        "image.png",
        "file:///etc/passwd",
        "ftp://x.org/a.png",
        "gopher://x.org",
        "http://",
        "http:///a.png",
        "http://x.org:99999/",
        "http://[::1/",
        "http://x.org/a b",
        "http://x.org/\r\nHost: inside",
        "http://x.org/ä",
        "http://user:secret@x.org/a.png",
        "http://" + "x" * 5000,
        "http://" + "x" * 300 + ".org/",
        "http://a..b/",
        None,
        5,
    ],
)
def test_urls_that_are_none(url: Any) -> None:
    with pytest.raises(Refused) as error:
        fetch_image(url, 1000)
    assert error.value.status == 400
    assert "secret" not in str(error.value) and len(str(error.value)) < 300


def test_a_request_cannot_name_another_platform_for_the_sdk_to_call(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FastAPI()

    @server.api_route("/of_the_sdk", methods=["GET", "POST"])
    async def of_the_sdk(request: Request) -> Any:
        return await request.json()

    add_gate(server, Service())
    body = {"state": {"image_id": 5}, "server_address": "http://169.254.169.254", "api_token": "x"}
    monkeypatch.setenv("SERVER_ADDRESS", "https://platform.example")
    seen = TestClient(server).post("/of_the_sdk", json=body).json()
    assert seen == {"state": {"image_id": 5}, "api_token": "x"}
    monkeypatch.delenv("SERVER_ADDRESS")
    other = {"server_address": "http://169.254.169.254", "api_token": "x"}
    body |= {"state": {"image_id": 5, **other}, "context": {"apiToken": "y", **other}}
    seen = TestClient(server).post("/of_the_sdk", json=body).json()
    assert seen == {"state": {"image_id": 5}, "context": {"apiToken": "y", "api_token": "x"}, "api_token": "x"}
    seen = TestClient(server).request("GET", "/of_the_sdk", json=body).json()
    assert "169.254" not in str(seen)


def test_proxies_of_the_environment_are_not_asked(web: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert fetch_image(f"{web[0]}/image.png", 10_000, allow_private=True) == png(photo(20, 30))
