"""The server beside the detector that it serves: the same scores, clear refusals, and nothing unbounded."""

import base64
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("httpx2", reason="needs httpx2")
from starlette.testclient import TestClient

from daad_jax.detection.detector import Detector
from daad_jax.method import state
from daad_jax.scoring.scorer import Scorer, variables_of
from daad_jax.serving.app import Limits, make_app
from daad_jax.serving.scoring_queue import QueueFullError, ScoringQueue
from tests.tiny import tiny_config

RNG = np.random.default_rng(0)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def noise(count=1, size=20):
    return [RNG.integers(0, 256, (size, size + 3, 3), np.uint8) for _ in range(count)]


@pytest.fixture(scope="module")
def detector():
    config = tiny_config()
    config.data.fit = "resize"
    current = state.create_state(config)
    held_out = RNG.integers(0, 256, (24, config.data.height, config.data.width, 3), np.uint8)
    calibration = Scorer(config).calibrate(variables_of(current), held_out)
    return Detector(current, config, calibration, batch_size=1)


def make_client(detector, limits=None, max_waiting=64):
    return TestClient(make_app(detector, "bolts", max_waiting, limits or Limits(), 2))


@pytest.fixture(scope="module")
def client(detector):
    with make_client(detector) as found:
        yield found


def test_an_image_has_the_detectors_score(client, detector):
    image = png(noise()[0])
    expected = detector.score(image)
    answer = client.post("/score", content=image)
    assert answer.status_code == 200
    found = answer.json()
    assert {k: v for k, v in found.items() if k != "images"} == {
        "name": "bolts",
        "step": detector.step,
        "calibration": detector.calibration_label.id,
        "threshold": detector.threshold,
    }
    (entry,) = found["images"]
    assert entry == {
        "name": "image",
        "score": float(expected.scores[0]),
        "anomalous": bool(expected.anomalous[0]),
        "p_value": float(expected.p_values[0]),
        "reconstruction": float(expected.reconstruction[0]),
        "alignment": float(expected.alignment[0]),
        "clipped": False,
    }


def test_heat_maps_are_the_detectors(client, detector):
    image = png(noise()[0])
    (expected,) = detector.score(image).heat
    heat = client.post("/score?heat=map", content=image).json()["images"][0]["heat"]
    values = np.frombuffer(base64.b64decode(heat["base64"]), "<f4").reshape(heat["height"], heat["width"])
    np.testing.assert_array_equal(values, expected.astype(np.float32))
    heat = client.post("/score?heat=overlay", content=image).json()["images"][0]["heat"]
    with Image.open(io.BytesIO(base64.b64decode(heat["base64"]))) as overlay:
        assert overlay.size == (heat["width"], heat["height"]) == expected.shape[::-1]


def test_many_clients_get_the_scores_of_their_own_images(client, detector):
    images = [png(x) for x in noise(48)]
    expected = [float(detector.score(image).scores[0]) for image in images]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda image: client.post("/score", content=image).json(), images))
    found = [answer["images"][0]["score"] for answer in answers]
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # the place in a batch changes the last digit
    assert "daad_waiting_images 0.0" in client.get("/metrics").text


def test_a_drift_is_metered(detector):
    with make_client(detector) as client:
        dark = [("image", (f"{i}.png", png(x // 8))) for i, x in enumerate(noise(60))]
        assert "daad_drift 0.0" in client.get("/metrics").text
        found = client.post("/score", files=dark).json()["images"]
        way = 1.0 if np.median([x["score"] for x in found]) > np.median(detector.calibration.scores) else -1.0
        assert f"daad_drift {way}" in client.get("/metrics").text


def test_an_unusable_image_leaves_the_others_their_verdicts(client):
    files = [
        ("image", ("a.png", png(noise()[0]))),
        ("image", ("<b>.png", b"no image")),
        ("image", ("c.png", png(noise()[0]))),
    ]
    answer = client.post("/score", files=files)
    assert answer.status_code == 422
    a, b, c = answer.json()["images"]
    assert a["name"] == "a.png"
    assert "score" in a
    assert "score" in c
    assert b["name"] == "<b>.png"
    assert b["error"].startswith("<b>.png: ")


@pytest.mark.parametrize(
    ("status", "message", "request_"),
    [
        (400, "the body is empty", {"content": b""}),
        (400, "heat='<script>': must be one of none, overlay, map", {"params": {"heat": "<script>"}}),
        (400, "the form has no file", {"headers": {"content-type": "multipart/form-data; boundary=x"},
                                       "content": b"--x--\r\n"}),
        (400, "the form cannot be used", {"headers": {"content-type": "multipart/form-data"},
                                           "content": b"x"}),
        (413, "the body has over 30000 bytes", {"content": bytes(30001)}),
        (400, "the form cannot be used: Too many files",
         {"files": [("image", (f"{i}.png", b"x")) for i in range(5)]}),
    ],
)  # fmt: skip
def test_refusals(detector, status, message, request_):
    with make_client(detector, Limits(body=30000, images=4)) as client:
        answer = client.post("/score", **request_)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(message)


class Held:
    """A detector that scores only when it may."""

    def __init__(self, detector):
        self._detector, self.may_score = detector, threading.Event()

    def judge(self, *arguments):
        assert self.may_score.wait(60)
        return self._detector.judge(*arguments)

    def __getattr__(self, name):
        return getattr(self._detector, name)


def test_a_full_queue_refuses_at_once_and_goes_on_later(detector):
    held = Held(detector)
    with make_client(held, max_waiting=2) as client, ThreadPoolExecutor(2) as pool:
        image = png(noise()[0])
        first = [pool.submit(client.post, "/score", content=image) for _ in range(2)]
        while "daad_waiting_images 2.0" not in client.get("/metrics").text:
            time.sleep(0.01)
        refused = client.post("/score", content=image)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        held.may_score.set()
        assert [answer.result().status_code for answer in first] == [200, 200]
        assert client.post("/score", content=image).status_code == 200
        assert "daad_refused_requests_total 1.0" in client.get("/metrics").text


def test_a_request_that_could_never_wait_is_not_told_to_try_again(detector):
    files = [("image", (f"{i}.png", png(noise()[0]))) for i in range(3)]
    with make_client(detector, max_waiting=2) as client:
        refused = client.post("/score", files=files)
        assert refused.status_code == 400
        assert "Maximum number of files is 2" in refused.json()["error"]
        schema = client.get("/openapi.json").json()["paths"]["/score"]["post"]["requestBody"]["content"]
        assert schema["multipart/form-data"]["schema"]["properties"]["image"]["maxItems"] == 2
        assert client.post("/score", files=files[:2]).status_code == 200


def test_an_answer_that_takes_too_long_is_given_up(detector):
    held = Held(detector)
    with make_client(held, Limits(seconds=0.2)) as client:
        answer = client.post("/score", content=png(noise()[0]))
        held.may_score.set()
    assert answer.status_code == 503
    assert answer.json()["error"] == "there was no answer within 0.2 seconds"


def test_heat_maps_of_an_answer_are_limited(detector):
    files = [("image", (f"{i}.png", png(noise()[0]))) for i in range(4)]
    size = 4 * -(-16 * 16 * 4 // 3)  # a map in base64
    with make_client(detector, Limits(heat=4 * size)) as client:
        assert client.post("/score?heat=map", files=files).status_code == 200
    with make_client(detector, Limits(heat=4 * size - 1)) as client:
        refused = client.post("/score?heat=map", files=files)
        assert refused.status_code == 413
        assert (
            refused.json()["error"]
            == f"the heat maps have over {4 * size - 1} bytes; send fewer images at once"
        )
        assert client.post("/score", files=files).status_code == 200
        assert client.get("/metrics").text.count("daad_waiting_images 0.0") == 1
    # Heat maps count as bytes that wait, until the answer is there.
    with make_client(detector, Limits(all_bodies=len(png(noise()[0])) + size - 100)) as client:
        for _ in range(3):
            assert client.post("/score", content=png(noise()[0])).status_code == 200
            assert client.post("/score?heat=map", content=png(noise()[0])).status_code == 503


def test_results_that_wait_have_only_what_their_answer_needs(detector):
    queue = ScoringQueue(detector, 8)
    image = png(noise()[0])
    bare, shown = (queue.submit([queue.open(image, "x", needs)])[0].result() for needs in (False, True))
    queue.close()
    assert bare.scores == shown.scores == detector.score(image).scores
    assert (bare.heat.size, bare.images.size) == (0, 0)
    assert shown.heat.shape == (1, 16, 16)
    assert shown.images.shape == (1, 16, 16, 3)
    assert bare.reconstructions is shown.reconstructions is None


def test_too_many_bytes_at_once_are_refused(detector):
    with make_client(detector, Limits(all_bodies=1000)) as client:
        assert client.post("/score", content=bytes(2000)).status_code == 503
        assert client.post("/score", content=bytes(500)).status_code == 422  # the bytes are free again


def test_closing_scores_what_waits(detector):
    held = Held(detector)
    queue = ScoringQueue(held, 8)
    futures = queue.submit([queue.open(png(x), "x") for x in noise(8)])
    with pytest.raises(QueueFullError):
        queue.submit([queue.open(png(noise()[0]), "x")])
    futures[3].cancel()
    held.may_score.set()
    queue.close()
    assert [f.cancelled() or bool(np.isfinite(f.result().scores[0])) for f in futures] == [True] * 8
    assert futures[0].done()


def test_the_page_and_the_description_name_the_routes(client):
    page = client.get("/")
    assert "POST /score" in page.text
    assert "script" not in page.headers["content-security-policy"]
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/score", "/healthz", "/metrics"}
    assert client.get("/healthz").json()["status"] == "ready"
    assert client.get("/nothing").json() == {"error": "Not Found"}
    assert client.get("/score").status_code == 405
    json.dumps(described)
    assert len(jax.devices()) == 8  # so that batches have more than one image
