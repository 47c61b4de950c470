"""The serving app as a process under many clients at once, and under clients that send whatever its description allows."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import requests
import schemathesis
import supervisely as sly
from schemathesis import GenerationMode, checks
from serve_scene import Picture, as_map, command_line_server, make_checkpoint, picture
from served_model import png
from supervisely.nn.model.model_api import ModelAPI

from hrda_core import Predictor
from serve_app.api_schema import IMAGE_TYPES

CLIENTS, REQUESTS, WARM = 16, 400, 100
GROWTH = 1.05  # of the resident memory from request 100 to 400


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("served") / "best.pth", steps=30)


@pytest.fixture(scope="module")
def url(checkpoint: Path) -> Iterator[str]:
    with command_line_server(checkpoint, checkpoint.with_name("log"), "--device", "cpu", "--host", "127.0.0.1") as url:
        yield url


# ---- many at once


def resident(url: str) -> float:
    """Bytes."""
    text = requests.get(f"{url}/metrics", timeout=60).text
    return float(re.findall(r"^process_resident_memory_bytes (\S+)$", text, re.MULTILINE)[0])


def test_16_clients_with_files_of_equal_names_and_a_flat_memory(url: str, checkpoint: Path, tmp_path: Path) -> None:
    """Through the unmodified clients of the SDK and plain HTTP; every image has a size of its own, and all are `photo.png`."""
    images = [picture(seed, 40 + 3 * seed, 90 - 3 * seed)[0] for seed in range(16)]
    right = [prediction.labels for prediction in Predictor(checkpoint, "cpu").predict(images)]
    contents, paths = [png(image) for image in images], []
    for number, content in enumerate(contents):
        paths.append(tmp_path / str(number) / "photo.png")
        paths[-1].parent.mkdir()
        paths[-1].write_bytes(content)
    model, api = ModelAPI(url=url), sly.Api("http://127.0.0.1:9", "no token")
    meta, session = model.get_model_meta(), sly.nn.inference.Session(api, session_url=url)
    memory: dict[int, float] = {}
    answered, lock = [0], threading.Lock()

    def read(answer: dict[str, Any]) -> Picture:
        return as_map(sly.Annotation.from_json(answer["annotation"], meta))

    def post(route: str, *which: int) -> Any:
        files = [("files", ("photo.png", contents[one])) for one in which]
        answer = requests.post(f"{url}/{route}", files=files, data={"settings": "{}"}, timeout=120)
        assert answer.ok, answer.text
        return answer.json()

    def ask(number: int) -> None:
        one, other = number % 16, (5 * number + 3) % 16
        match number // 16 % 5:
            case 0:
                found = {one: as_map(session.inference_image_path(str(paths[one])))}
            case 1:
                found = {one: as_map(model.predict(str(paths[one]))[0].annotation)}
            case 2:
                found = {one: read(post("inference_image", one))}
            case 3:
                found = dict(
                    zip((one, other), map(as_map, session.inference_image_paths([paths[one], paths[other]])), strict=True)
                )
            case _:
                found = dict(zip((one, other), map(read, post("inference_batch", one, other)), strict=True))
        for which, labels in found.items():
            np.testing.assert_array_equal(labels, right[which])
        with lock:
            answered[0] += 1
            if answered[0] in (WARM, REQUESTS):
                memory[answered[0]] = resident(url)

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(ask, range(REQUESTS)))
    assert memory[REQUESTS] < GROWTH * memory[WARM], memory


# ---- whatever the description allows, and some of what it does not

STRICT = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]
schemathesis.openapi.format("binary", st.sampled_from([png(picture(1, 9, 20)[0]), png(picture(2, 70, 64)[0])]) | st.binary())
schemathesis.openapi.format(
    "uri", st.sampled_from(["http://127.0.0.1:1/a.png", "ftp://example.org/a", "https://[::1]/x", "http:"])
)
schemathesis.serializer.alias(list(IMAGE_TYPES), "application/octet-stream")


def statuses_of(operation: schemathesis.APIOperation[Any, Any, Any, Any], mode: GenerationMode) -> Counter[int]:
    """Of what 25 requests got. Each answer is held against the description."""
    found: Counter[int] = Counter()

    @hypothesis.settings(
        max_examples=25, derandomize=True, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        answer = case.call(timeout=60)
        found[answer.status_code] += 1
        case.validate_response(answer, checks=STRICT)

    ask()
    return found


def test_answers_are_those_of_the_description_whatever_is_sent(url: str) -> None:
    operations = [result.ok() for result in schemathesis.openapi.from_url(f"{url}/openapi_raw.json").get_all_operations()]
    assert len(operations) == 7
    for operation in operations:
        assert 200 in statuses_of(operation, GenerationMode.POSITIVE), operation.path
        if operation.method == "post":
            found = statuses_of(operation, GenerationMode.NEGATIVE)
            assert 400 in found and 200 not in found, (operation.path, found)
    assert requests.get(f"{url}/ready", timeout=60).ok
