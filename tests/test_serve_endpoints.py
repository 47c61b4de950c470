"""The endpoints from outside: maps, state, metrics, the API's description, limits, and errors that say what to do."""

from __future__ import annotations

import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image as PillowImage
from served_model import WAIT, busy_network, in_parallel, micro_checkpoint, photo, png

from hrda_core.inference.predictor import Prediction, Predictor
from serve_app.endpoints import OPENAPI, add_endpoints
from serve_app.engine import Engine, PredictOptions
from serve_app.limits import Admission, Limits, Refused
from serve_app.request_image import SETTINGS, options_of
from serve_app.service import Service

CONTENT = micro_checkpoint()
MEASURED = Predictor(CONTENT, "cpu").preprocessing
IMAGE = photo(90, 130)
FORMATS = ("jpeg", "png", "tiff", "webp", "bmp")
MAPS = ("/predict/labels", "/predict/confidence", "/predict/probabilities")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine(CONTENT, "cpu")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def expected() -> Prediction:
    return Predictor(CONTENT, "cpu").predict([IMAGE], probabilities=True)[0]


def served(engine: Engine | None, **limits: float) -> TestClient:
    """A client of a server that reads JSON before its routes do, as the SDK's does."""
    server = FastAPI()

    @server.middleware("http")
    async def state(request: Request, call_next: Callable[..., Any]) -> Any:
        if "application/json" in request.headers.get("content-type", ""):
            request.state.state = (await request.json()).get("state")
        return await call_next(request)

    @server.post("/of_the_sdk")
    async def of_the_sdk(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @server.post("/broken")
    async def broken() -> None:
        raise RuntimeError("a secret of ours")

    service = Service(Limits(**limits), engine)
    add_endpoints(server, service)
    client = TestClient(server, raise_server_exceptions=False)
    client.service = service  # type: ignore[attr-defined]
    return client


@pytest.fixture(scope="module")
def client(engine: Engine) -> TestClient:
    return served(engine)


def as_body(image: NDArray[np.uint8]) -> dict[str, Any]:
    return {"content": png(image), "headers": {"content-type": "image/png"}}


def grey(content: bytes) -> NDArray[np.uint8]:
    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert values.ndim == 2
    return np.asarray(values, np.uint8)


def assert_refused(answer: Any, status: int, code: str, text: str = "") -> None:
    body = answer.json()
    assert (answer.status_code, body["code"], body["success"]) == (status, code, False), body
    assert text in body["message"]
    assert body["request_id"] == answer.headers["x-request-id"]
    assert "/tests/" not in answer.text and "Traceback" not in answer.text


# -- maps -------------------------------------------------------------------------------------------------------------


def test_label_confidence_and_probability_maps(client: TestClient, engine: Engine, expected: Prediction) -> None:
    labels, confidence, probabilities = (client.post(route, **as_body(IMAGE)) for route in MAPS)
    assert np.array_equal(grey(labels.content), expected.labels)
    assert np.array_equal(grey(confidence.content), np.rint(expected.confidence * 255).astype(np.uint8))
    stored = np.load(io.BytesIO(probabilities.content), allow_pickle=False)
    assert stored["probabilities"].dtype == np.float16
    assert np.array_equal(stored["probabilities"], expected.probabilities.astype(np.float16))
    assert stored["classes"].tolist() == ["background", "damage 1", "damage 2"]
    assert labels.headers["x-model-version"] == engine.weights_version
    assert labels.headers["x-image-size"] == "130x90"
    assert [answer.headers["content-type"] for answer in (labels, probabilities)] == ["image/png", "application/x-npz"]


def test_an_image_comes_as_a_file_a_body_or_a_url(
    client: TestClient, expected: Prediction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.endpoints.fetch_image", lambda url, *_: {"https://x.org/a.png": png(IMAGE)}[url])
    answers = [
        client.post(MAPS[0], files={"image": ("photo.png", png(IMAGE), "image/png")}),
        client.post(MAPS[0], content=png(IMAGE), headers={"content-type": "application/octet-stream"}),
        client.post(MAPS[0], json={"url": "https://x.org/a.png"}),
    ]
    for answer in answers:
        assert np.array_equal(grey(answer.content), expected.labels)


def test_settings_come_in_the_query_the_form_or_json(client: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.endpoints.fetch_image", lambda *_: png(IMAGE))
    sizes = {"scale": 1.5, "zooms": (0.5, 1.0)}
    options = PredictOptions((64, 96), overlap=0.5, blending="smooth", flips=True, thresholds=[0.2, 0.9], **sizes)  # type: ignore
    words = {
        "tile_size": "64x96",
        "overlap": "0.5",
        "blending": "smooth",
        "scale": "1.5",
        "flips": "true",
        "zooms": "0.5, 1",
        "thresholds": "0.2,0.9",
    }
    numbers = {**words, "tile_size": [64, 96], "overlap": 0.5, **sizes, "flips": True, "thresholds": [0.2, 0.9]}
    answers = [
        client.post(MAPS[0], params=words, **as_body(IMAGE)),
        client.post(MAPS[0], files={"image": png(IMAGE)}, data=words),
        client.post(MAPS[0], files={"image": png(IMAGE)}, data={"settings": json.dumps(numbers)}),
        client.post(MAPS[0], json={"url": "https://x.org/a.png", "settings": numbers}),
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert np.array_equal(grey(answer.content), engine.predict(IMAGE, options).labels)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (300, 2), (64, 64)])
def test_images_of_any_size(client: TestClient, height: int, width: int) -> None:
    assert grey(client.post(MAPS[0], **as_body(photo(height, width))).content).shape == (height, width)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_pixels_of_any_kind(client: TestClient, mode: str) -> None:
    image = PillowImage.fromarray(IMAGE)
    image = PillowImage.fromarray(IMAGE[..., 0].astype(np.uint16) * 200) if mode == "I;16" else image.convert(mode)
    file = io.BytesIO()
    image.save(file, "TIFF")
    answer = client.post(MAPS[0], content=file.getvalue(), headers={"content-type": "image/tiff"})
    assert grey(answer.content).shape == IMAGE.shape[:2]


def test_a_photo_that_lies_on_its_side_is_turned(client: TestClient) -> None:
    file, exif = io.BytesIO(), PillowImage.Exif()
    exif[0x0112] = 6
    PillowImage.fromarray(IMAGE).save(file, "JPEG", exif=exif)
    answer = client.post(MAPS[0], content=file.getvalue(), headers={"content-type": "image/jpeg"})
    assert grey(answer.content).shape == (130, 90)


def test_16_clients_with_equal_file_names_get_their_own_answers(client: TestClient) -> None:
    images = [photo(70 + 5 * (i % 4), 80, i) for i in range(16)]
    predictor = Predictor(CONTENT, "cpu")
    answers = in_parallel(lambda i: client.post(MAPS[0], files={"image": ("same.png", png(images[i]))}), 16)
    for image, answer in zip(images, answers, strict=True):
        assert np.array_equal(grey(answer.content), predictor.predict([image])[0].labels)


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("tile_size", "9" * 30, "bad_setting"),
        ("tile_size", "512x", "bad_setting"),
        ("tile_size", "-64x64", "bad_setting"),
        ("overlap", "half", "bad_setting"),
        ("overlap", "1e400", "bad_setting"),
        ("scale", "nan", "bad_setting"),
        ("blending", "\x00", "bad_setting"),
        ("flips", "maybe", "bad_setting"),
        ("zooms", "small,large", "bad_setting"),
        ("thresholds", "0.5,", "bad_setting"),
        ("thresholds", "0.1,0.2,0.3", "bad_setting"),
        ("thresholds", "0.5," * 3000, "bad_setting"),
        ("model", "other", "unknown_setting"),
        ("tile_size", "", "bad_setting"),
    ],
)
def test_settings_that_do_not_fit_are_named(client: TestClient, name: str, value: str, code: str) -> None:
    for how in ({"params": {name: value}}, {"data": {name: value}}):
        assert_refused(client.post(MAPS[0], files={"image": png(IMAGE)}, **how), 400, code, name)


@pytest.mark.parametrize(
    "settings", [[], "x", {"tile_size": {}}, {"overlap": []}, {"flips": "x" * 10**5}, {"thresholds": [[]]}, {"a": 1}]
)
def test_settings_of_odd_types_are_refused(client: TestClient, settings: Any) -> None:
    answer = client.post(MAPS[0], json={"url": "https://x.org/a.png", "settings": settings})
    assert answer.status_code == 400 and answer.json()["code"] in ("bad_setting", "unknown_setting")
    assert len(answer.text) < 2000


def test_a_setting_twice_in_one_place_is_refused_and_the_body_counts_over_the_query(client: TestClient, engine: Engine) -> None:
    twice = client.post(f"{MAPS[0]}?overlap=0.1&overlap=0.2", files={"image": png(IMAGE)})
    assert_refused(twice, 400, "bad_setting", "'overlap' is given twice")
    both = client.post(f"{MAPS[0]}?overlap=0.1", files={"image": png(IMAGE)}, data={"overlap": "0.5"})
    assert np.array_equal(grey(both.content), engine.predict(IMAGE, PredictOptions(overlap=0.5)).labels)


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b"", "image/png", 400, "empty_image"),
        (b"GIF89a....", "image/gif", 400, "not_an_image"),
        (b"<svg/>", "image/svg+xml", 400, "not_an_image"),
        (png(IMAGE)[:200], "image/png", 400, "broken_image"),
        (png(IMAGE)[:20], "image/png", 400, "broken_image"),
        (b"\xff\xd8\xff\xe0\x00", "image/jpeg", 400, "broken_image"),
        (b"II*\0\x08\0\0\0\xff\xff", "image/tiff", 400, "broken_image"),
        (b"RIFF\0\0\0\0WEBPVP8X", "image/webp", 400, "broken_image"),
        (b"BM", "image/bmp", 400, "broken_image"),
        (b"x", "text/plain", 415, "unknown_content_type"),
        (b"x", "", 415, "unknown_content_type"),
        (b"<x/>", "application/xml", 415, "unknown_content_type"),
        (b"{", "application/json", 400, "bad_json"),
        (b"", "application/json", 400, "bad_json"),
        (b"[1]", "application/json", 400, "bad_json"),
        (b'{"state": 5}', "application/json", 400, "bad_json"),
        (b"[" * 100_000, "application/json", 400, "bad_json"),
        (b"\xff\xfe{", "application/json; charset=utf-7", 400, "bad_json"),
        (b"{}", "application/json", 400, "no_image"),
        (b'{"url": 5}', "application/json", 400, "no_image"),
        (b"x", "multipart/form-data", 400, "bad_form"),
        (b"x", "multipart/form-data; boundary=b", 400, "bad_form"),
        (
            b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n--b--',
            "multipart/form-data; boundary=b",
            400,
            "no_image",
        ),
        (b'--b\r\nContent-Disposition: form-data; name="ima', "multipart/form-data; boundary=b", 400, "no_image"),
        (b"--b\r\nnonsense\r\n\r\n", "multipart/form-data; boundary=b", 400, "bad_form"),
    ],
)
def test_bodies_that_hold_no_image(client: TestClient, content: bytes, kind: str, status: int, code: str) -> None:
    assert_refused(client.post(MAPS[0], content=content, headers={"content-type": kind}), status, code)


def test_two_images_in_a_form_are_refused(client: TestClient) -> None:
    answer = client.post(MAPS[0], files=[("image", png(IMAGE)), ("image", png(IMAGE))])
    assert_refused(answer, 400, "bad_form")


def test_errors_bear_the_id_of_the_request(client: TestClient) -> None:
    given = client.post(MAPS[0], headers={"x-request-id": "batch-7.3"})
    assert given.json()["request_id"] == given.headers["x-request-id"] == "batch-7.3"
    odd = client.post(MAPS[0], headers={"x-request-id": "a b\tc"})
    assert re.fullmatch("[0-9a-f]{32}", odd.json()["request_id"])


def test_an_error_of_ours_keeps_its_details_for_the_log(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("serve_app.endpoints.decode_checked", lambda *_: 1 / 0)
    answer = client.post(MAPS[0], **as_body(IMAGE))
    assert_refused(answer, 500, "internal")
    assert "ZeroDivisionError" not in answer.text
    assert "ZeroDivisionError" in caplog.text and answer.json()["request_id"] in caplog.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
WORDS = (
    st.sampled_from(["512", "64x64", "0x0", "1e9", "-1", "nan", "true", "tuned", "0.5,0.5", ",", "x", "٣", "1_000"]) | st.text()
)


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(st.dictionaries(st.sampled_from(SETTINGS) | st.text(max_size=10), JSON | WORDS, max_size=4))
def test_any_settings_give_options_within_range_or_a_refusal_of_reasonable_length(settings: dict[str, Any]) -> None:
    try:
        options = options_of(settings)
    except Refused as refused:
        assert refused.status == 400 and 0 < len(str(refused)) < 1000
        return
    preprocessing = options.preprocessing(MEASURED)
    assert max(preprocessing.window) <= 2048 and preprocessing.overlap <= 0.9 and preprocessing.scale <= 4


# -- limits -----------------------------------------------------------------------------------------------------------


def chunks(count: int) -> Iterator[bytes]:
    """A body without Content-Length."""
    for _ in range(count):
        yield b"x" * 2**16


@pytest.mark.parametrize("route", [*MAPS, "/of_the_sdk"])
def test_bodies_beyond_the_limit_on_every_route(engine: Engine, route: str) -> None:
    client = served(engine, body_mb=0.5)
    png_type, form = {"content-type": "image/png"}, {"content-type": "multipart/form-data; boundary=b"}
    json_type = {"content-type": "application/json"}
    for content, headers in (
        (b"x" * 2**20, png_type),
        (chunks(20), png_type),
        (chunks(20), form),
        (b"[" + b"1," * 2**19 + b"1]", json_type),
    ):
        answer = client.post(route, content=content, headers=headers)
        assert answer.status_code == 413 and "more than 0.5 MB" in answer.json()["message"]
    assert client.post("/of_the_sdk", content=chunks(3)).json() == {"bytes": 3 * 2**16}


def test_images_of_too_many_pixels(engine: Engine) -> None:
    client = served(engine, megapixels=0.01, side=140)
    assert_refused(client.post(MAPS[0], **as_body(IMAGE)), 413, "too_many_pixels", "130x90 px = 0.0 megapixels, more than 0.01")
    assert_refused(client.post(MAPS[0], **as_body(photo(1, 141))), 413, "side_too_long", "HRDA_MAX_SIDE")
    assert client.post(MAPS[0], **as_body(photo(70, 140))).status_code == 200


def test_probabilities_that_would_be_too_large(engine: Engine) -> None:
    client = served(engine, probabilities_mb=0.05)
    assert_refused(client.post(MAPS[2], **as_body(IMAGE)), 413, "answer_too_large", "/predict/labels")
    assert client.post(MAPS[0], **as_body(IMAGE)).status_code == 200


def test_a_full_line_says_when_to_come_back_and_status_answers_all_the_while(engine: Engine) -> None:
    client = served(engine, queue=2, active=1)
    with busy_network() as network:
        threads = [threading.Thread(target=client.post, args=(MAPS[0],), kwargs=as_body(IMAGE)) for _ in range(2)]
        for thread in threads:
            thread.start()
        while client.service.admission.inside < 2:  # type: ignore[attr-defined]
            time.sleep(0.01)
        answer = client.post(MAPS[0], **as_body(IMAGE))
        assert_refused(answer, 503, "busy", "2 requests are under way")
        assert int(answer.headers["retry-after"]) > 0
        assert client.get("/health").status_code == client.get("/ready").status_code == 200
        assert "hrda_requests_under_way 2\n" in client.get("/metrics").text
        network.free.set()
        for thread in threads:
            thread.join(WAIT)
    assert client.post(MAPS[0], **as_body(IMAGE)).status_code == 200


def test_a_request_past_the_deadline(engine: Engine) -> None:
    client = served(engine, deadline=0.3, active=1)
    with busy_network() as network:
        start = time.monotonic()
        for answer in in_parallel(lambda _: client.post(MAPS[0], **as_body(IMAGE)), 2):  # one waits for the other's thread
            assert_refused(answer, 504, "deadline")
        assert time.monotonic() - start < 3
        network.free.set()
    assert client.service.admission.inside == 0  # type: ignore[attr-defined]


def test_limits_come_from_the_environment() -> None:
    limits = Limits.from_environment({"HRDA_MAX_BODY_MB": "1.5", "HRDA_MAX_QUEUE": "3", "HRDA_DEADLINE": " 20 "})
    assert (limits.body_bytes, limits.queue, limits.deadline) == (3 * 2**19, 3, 20)
    assert Limits.from_environment({}) == Limits()
    for wrong in ("x", "0", "-1", "nan", "inf"):
        with pytest.raises(ValueError, match=r"HRDA_DEADLINE=.*: use a number above 0"):
            Limits.from_environment({"HRDA_DEADLINE": wrong})


def test_a_place_in_line_is_given_back_after_an_error() -> None:
    admission = Admission(1)
    with pytest.raises(ZeroDivisionError), admission.enter():
        raise ZeroDivisionError
    with admission.enter(), pytest.raises(Refused), admission.enter():
        pass
    assert admission.inside == 0


# -- over a real connection ---------------------------------------------------------------------------------------------


@contextmanager
def listening(client: TestClient) -> Iterator[int]:
    """The port on which the client's server listens."""
    server = uvicorn.Server(uvicorn.Config(client.app, port=0, log_level="error", lifespan="off"))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(WAIT)
        listener.close()


def head(length: int, kind: str = "image/png") -> bytes:
    return f"POST {MAPS[0]} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n".encode()


def test_a_client_that_hangs_up_frees_its_place_at_once(engine: Engine) -> None:
    client = served(engine)
    admission = client.service.admission  # type: ignore[attr-defined]
    with listening(client) as port, busy_network() as network:
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(head(len(png(IMAGE))) + png(IMAGE))
        assert network.arrived.wait(WAIT) and admission.inside == 1
        connection.close()
        end = time.monotonic() + WAIT
        while admission.inside and time.monotonic() < end:
            time.sleep(0.01)
        assert admission.inside == 0 and not network.free.is_set()
    assert client.post(MAPS[0], **as_body(IMAGE)).status_code == 200


def test_a_body_that_does_not_come_is_not_waited_for_longer_than_the_deadline(engine: Engine) -> None:
    with listening(served(engine, deadline=0.3)) as port, socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head(1000) + b"only this")
        assert b" 504 " in connection.recv(1000)


def test_too_large_a_body_is_answered_before_it_is_sent(engine: Engine) -> None:
    with listening(served(engine, body_mb=1)) as port, socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head(2**40))
        assert b" 413 " in connection.recv(1000)


# -- state ------------------------------------------------------------------------------------------------------------


def test_before_a_model_is_loaded(engine: Engine) -> None:
    client = served(None)
    assert client.get("/health").json() == {"status": "alive"}
    for answer in (client.get("/ready"), client.get("/model_card"), client.post(MAPS[0], **as_body(IMAGE))):
        assert_refused(answer, 503, "not_ready", "no model is loaded")
        assert "retry-after" in answer.headers
    assert "hrda_ready 0\n" in client.get("/metrics").text
    client.service.engine = engine  # type: ignore[attr-defined]
    assert client.get("/ready").json() == {"ready": True, "asleep": False, "version": engine.weights_version}
    assert client.get("/model_card").json()["classes"][1]["name"] == "damage 1"


def test_a_model_that_is_taken_out_of_service_meanwhile() -> None:
    engine = Engine(CONTENT, "cpu")
    engine.close()
    assert_refused(served(engine).post(MAPS[0], **as_body(IMAGE)), 503, "not_now", "taken out of service")


# -- metrics ----------------------------------------------------------------------------------------------------------

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = re.compile(rf"({NAME})(?:\{{(.*)\}})? (-?[0-9.e+-]+|NaN|[+-]Inf)")
LABEL = re.compile(rf'({NAME})="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')


def parsed(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Samples by name and labels; strict about Prometheus' text format, and about histograms."""
    assert text.endswith("\n")
    types: dict[str, str] = {}
    helped: set[str] = set()
    samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    family = ""
    for line in text.splitlines():
        if line.startswith("# "):
            what, name, rest = line[2:].split(" ", 2)
            assert what in ("HELP", "TYPE") and re.fullmatch(NAME, name) and rest
            family = name
            if what == "HELP":
                assert name not in helped
                helped.add(name)
            else:
                assert rest in ("counter", "gauge", "histogram") and name not in types
                types[name] = rest
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        labels = tuple(LABEL.findall(match[2] or ""))
        assert "".join(f'{key}="{value}",' for key, value in labels).rstrip(",") == (match[2] or "")
        suffixes = ("_bucket", "_sum", "_count") if types[family] == "histogram" else ("",)
        assert match[1] in [family + suffix for suffix in suffixes], f"{line} is not under its family"
        assert types[family] != "counter" or family.endswith("_total")
        assert labels not in samples.setdefault(match[1], {}), f"twice: {line}"
        samples[match[1]][labels] = float(match[3])
    for name in (name for name, kind in types.items() if kind == "histogram"):
        for labels, count in samples.get(f"{name}_count", {}).items():
            rows = {r: v for r, v in samples[f"{name}_bucket"].items() if tuple(x for x in r if x[0] != "le") == labels}
            bounds = [float(dict(row)["le"]) for row in rows]
            assert bounds == sorted(bounds) and bounds[-1] == float("inf")
            assert list(rows.values()) == sorted(rows.values()) and list(rows.values())[-1] == count
            assert labels in samples[f"{name}_sum"]
    return samples


def test_metrics_are_in_prometheus_format_and_count_what_happened() -> None:
    engine = Engine(CONTENT, "cpu")
    client = served(engine)
    for _ in range(3):
        client.post(MAPS[0], **as_body(IMAGE))
    client.post(MAPS[0])
    client.post("/broken")
    client.get('/nowhere/"quoted"')
    answer = client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    samples = parsed(answer.text)

    def requests(route: str, status: int, method: str = "POST") -> float:
        return samples["hrda_requests_total"][("route", route), ("method", method), ("status", str(status))]

    assert requests(MAPS[0], 200) == 3
    assert requests(MAPS[0], 415) == 1
    assert requests("/broken", 500) == 1
    assert requests("other", 404, "GET") == 1
    assert samples["hrda_request_seconds_count"][(("route", MAPS[0]),)] == 4
    assert samples["hrda_tiles_total"][()] == samples["hrda_tile_batch_size_sum"][()] == 3 * 6
    assert samples["hrda_tile_batch_size_count"][()] == 3 * 2
    assert samples["hrda_tiles_waiting"][()] == samples["hrda_requests_under_way"][()] == 0
    assert samples["hrda_model_info"][("version", engine.weights_version), ("device", "cpu")] == 1
    assert samples["process_resident_memory_bytes"][()] > 10**7
    engine.close()


def test_strange_routes_and_methods_make_no_new_series(client: TestClient) -> None:
    before = len(parsed(client.get("/metrics").text)["hrda_requests_total"])
    for i in range(20):
        client.request(f"ODD{i}", f"/path/{i}")
    assert len(parsed(client.get("/metrics").text)["hrda_requests_total"]) <= before + 2


# -- description ------------------------------------------------------------------------------------------------------


def test_openapi_describes_these_endpoints_and_no_others(client: TestClient) -> None:
    schema = client.get(OPENAPI).json()
    assert schema["openapi"].startswith("3.1")
    assert set(schema["paths"]) == {"/health", "/ready", "/metrics", "/model_card", *MAPS}
    labels = schema["paths"][MAPS[0]]["post"]
    assert {parameter["name"] for parameter in labels["parameters"]} == {
        "tile_size", "overlap", "blending", "scale", "flips", "zooms", "thresholds"
    }  # fmt: skip
    kinds = {"multipart/form-data", "application/octet-stream", "application/json", *(f"image/{k}" for k in FORMATS)}
    assert set(labels["requestBody"]["content"]) == kinds
    assert set(labels["responses"]) == {"200", "400", "413", "415", "503", "504"}
    assert "image/png" in labels["responses"]["200"]["content"]
    assert len({route["post"]["operationId"] for path, route in schema["paths"].items() if path in MAPS}) == 3
