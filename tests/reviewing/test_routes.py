"""The page's server: who gets in, what it says about a folder, marks, and the calibration from marks."""

import csv
import hashlib
import io
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("httpx2", reason="needs httpx2")
from starlette.testclient import TestClient

from daad_jax.buckets import open_place
from daad_jax.detection import detector as detector_module
from daad_jax.detection import recalibration
from daad_jax.detection.detector import Detector
from daad_jax.detection.overlay import draw_heat, draw_overlay
from daad_jax.errors import UserError
from daad_jax.reviewing import review as review_module
from daad_jax.reviewing.folder_images import list_images, make_id
from daad_jax.reviewing.gate import HEADERS, Gate
from daad_jax.training import calibrations
from tests.emulator import BUCKET, needs_emulator, upload_folder
from tests.reviewing.small_review import (
    COOKIE,
    ORIGIN,
    TOKEN,
    client_of,
    draw,
    draw_folder,
    make_reviewed_run,
    open_large_review,
    open_review,
)
from tests.untrained_run import make_run, reused_scorer


@pytest.fixture(scope="module", autouse=True)
def compile_once():
    with pytest.MonkeyPatch.context() as patch:
        for module in (recalibration, detector_module):
            patch.setattr(module, "Scorer", reused_scorer)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("review")
        patch.setenv("DAAD_CACHE_DIR", str(folder / "cache"))
        make_reviewed_run(folder)
        draw_folder(folder / "parts")
        yield folder


@pytest.fixture(scope="module")
def client(root):
    with client_of(open_review(root / "bolts", root / "parts", root / "out")) as found:
        yield found


def mark(client, name, mark, shown="none"):
    return client.post("/api/mark", json={"id": make_id(name), "mark": mark, "shown": shown})


def rows_of(client):
    columns = client.get("/api/images?since=0").json()
    names = [key for key, value in columns.items() if isinstance(value, list)]
    return {row[names.index("name")]: dict(zip(names, row)) for row in zip(*(columns[n] for n in names))}


def picture(answer):
    with Image.open(io.BytesIO(answer.content)) as image:
        return np.asarray(image)


# Who gets in.


def test_without_the_token_nothing_is_shown(root):
    async def never(scope, receive, send):
        raise AssertionError("somebody got in")

    stranger = TestClient(Gate(never, TOKEN, COOKIE), base_url="http://127.0.0.1")
    for path in (
        "/",
        "/?token=",
        "/?token=other",
        "/?token=%ff",
        f"/?token={TOKEN}{'&a=1' * 10}",
        "/api/images",
        f"/api/images?token={TOKEN}",
    ):
        for cookies in ({}, {COOKIE: "other"}, {"other": TOKEN}):
            stranger.cookies = cookies
            answer = stranger.get(path)
            assert answer.status_code == 403
            assert "set-cookie" not in answer.headers
            assert all(answer.headers[key] == value for key, value in HEADERS.items())
    assert stranger.post("/api/mark", json={}, headers=ORIGIN).status_code == 403


def test_the_address_with_the_token_gives_a_cookie_that_only_this_site_gets(client):
    answer = client.get(f"/?token={TOKEN}")
    assert answer.headers["set-cookie"] == f"{COOKIE}={TOKEN}; HttpOnly; SameSite=Strict; Path=/"
    assert answer.text.startswith("<!doctype html>")
    assert "set-cookie" not in client.get("/").headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:9"}, 200),
        ({"Host": "localhost:9"}, 200),
        ({"Host": "[::1]:9"}, 200),
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "evil.example#127.0.0.1"}, 421),
        ({"Host": ""}, 421),
        ({"Host": "["}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:81"}, 403),  # another port is another site
        ({"Origin": "https://127.0.0.1"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_host_and_origin_must_be_ours(client, headers, status):
    if "Host" in headers and status == 200:
        headers["Origin"] = f"http://{headers['Host']}"
    assert client.get("/api/progress", headers=headers).status_code == status


def test_a_change_needs_our_origin_and_json(client):
    id_ = rows_of(client)["good/001.png"]["id"]
    body = {"id": id_, "mark": "good", "shown": "none"}
    client.headers.pop("Origin")
    try:
        assert client.post("/api/mark", json=body).status_code == 403
    finally:
        client.headers.update(ORIGIN)
    assert client.post("/api/mark", data=body).status_code == 415
    assert client.get("/api/mark").status_code == 405
    assert rows_of(client)["good/001.png"]["mark"] == "none"


def test_nothing_runs_that_the_page_does_not_bring_itself(client):
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    page = client.get("/").text
    assert "<script>" not in page
    assert " style=" not in page
    assert "http" not in page.replace("http-equiv", "")
    for name in ("start.js", "grid.js", "images.js", "server.js", "threshold.js", "viewer.js", "review.css"):
        answer = client.get(f"/page/{name}")
        assert answer.status_code == 200
        assert "http" not in answer.text.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize(
    "path",
    [
        "/page/../routes.py",
        "/page/..%2froutes.py",
        "/page/%2e%2e%2f%2e%2e%2fcli.py",
        "/image/../../etc/passwd",
        "/image/%2fetc%2fpasswd",
        "/thumbnail/good%2f001.png",
        "/image/good",
        "/page/",
    ],
)
def test_addresses_are_no_paths(client, path):
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b'{"id": "i0", "mark": "good", "shown": "none", "more": "x"}', 400),
        (b'{"id": 1, "mark": "good", "shown": "none"}', 400),
        (b'{"id": "i0", "mark": "perfect", "shown": "none"}', 400),
        (b'{"id": "i0", "mark": "good", "shown": "perfect"}', 400),
        (b'{"id": "i0", "mark": "good", "shown": "none"}', 404),
        (b" " * 5000, 413),
        (b"[" * 4000, 400),
    ],
)
def test_a_bad_body_is_one_line(client, body, status):
    answer = client.post("/api/mark", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}


# What the page learns.


def test_scores_are_the_detectors_and_labels_come_from_the_folders(client, root):
    rows = rows_of(client)
    assert len(rows) == 49
    detector = Detector.load(root / "bolts")
    for name in ("good/001.png", "good/039.png", "blot/003.png"):
        expected = detector.score([root / "parts" / name])
        assert rows[name]["score"] == pytest.approx(expected.scores[0], rel=1e-6)
        assert rows[name]["p_value"] == pytest.approx(expected.p_values[0])
        assert rows[name]["id"] == make_id(name)
    assert {row["label"] for name, row in rows.items() if name.startswith("good/")} == {"good"}
    assert {row["label"] for name, row in rows.items() if name.startswith("blot/")} == {"defect"}
    torn = rows["good/torn.png"]
    assert torn["score"] is None
    assert "torn.png" in torn["error"]
    about = client.get("/api/review").json()
    assert about["threshold"] == detector.threshold
    assert about["total"] == 49
    assert about["left_out"] == {"not an image (.txt)": 1}
    assert client.get("/api/progress").json()["done"] == 49


def test_only_new_images_are_sent(client):
    columns = client.get("/api/images?since=47").json()
    assert columns["first"] == 47
    assert {len(value) for value in columns.values() if isinstance(value, list)} == {2}
    for bad in ("-1", "x", "9" * 11, "²"):
        assert client.get("/api/images", params={"since": bad}).status_code == 400


def test_pictures_show_the_image_and_the_detectors_heat(client, root):
    detector = Detector.load(root / "bolts")
    id_ = make_id("blot/003.png")
    pixels = np.asarray(Image.open(root / "parts/blot/003.png"))
    np.testing.assert_array_equal(picture(client.get(f"/image/{id_}")), pixels)
    np.testing.assert_array_equal(picture(client.get(f"/thumbnail/{id_}")), pixels)
    found = detector.score([root / "parts/blot/003.png"])
    heat = picture(client.get(f"/heat/{id_}"))
    stretched = Image.fromarray(found.heat[0].astype(np.float32)).resize((24, 16), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(heat.astype(int), draw_heat(np.asarray(stretched)), atol=1)
    assert picture(client.get(f"/reconstruction/{id_}")).shape == (11, 16, 3)
    for kind in ("image", "thumbnail", "heat", "reconstruction"):
        answer = client.get(f"/{kind}/{make_id('good/torn.png')}")
        assert answer.status_code == 409
        assert "torn.png" in answer.json()["error"]


@pytest.mark.slow
def test_images_that_are_cut_into_tiles_are_shown_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("DAAD_CACHE_DIR", str(tmp_path / "cache"))
    workdir = make_reviewed_run(tmp_path, data__tiles=16, data__channels=1)
    folder = draw(tmp_path / "parts", 3, 1, blot=True)
    detector = Detector.load(workdir)
    expected = detector.score([folder / "001.png"])
    with client_of(open_review(workdir, folder, tmp_path / "out")) as client:
        assert rows_of(client)["001.png"]["score"] == pytest.approx(expected.scores[0], rel=1e-6)
        id_ = make_id("001.png")
        assert picture(client.get(f"/image/{id_}")).shape == (16, 24)
        assert picture(client.get(f"/reconstruction/{id_}")).shape == (16, 24)
        heat = Image.fromarray(expected.heat[0].astype(np.float32)).resize(
            (24, 16), Image.Resampling.BILINEAR
        )
        shown = picture(client.get(f"/heat/{id_}")).astype(int)
        np.testing.assert_allclose(shown, draw_heat(np.asarray(heat)), atol=1)


def test_a_layer_of_heat_over_the_image_is_the_overlay():
    rng = np.random.default_rng(0)
    image, heat = rng.integers(0, 256, (9, 7, 3), np.uint8), rng.uniform(0, 3, (9, 7))
    layer = Image.fromarray(draw_heat(heat))
    base = Image.fromarray(image).convert("RGBA")
    joined = np.asarray(Image.alpha_composite(base, layer).convert("RGB")).astype(int)
    assert np.abs(joined - draw_overlay(image, heat)).max() <= 2


def test_scores_and_thumbnails_are_kept(client, root, tmp_path):
    shutil.copytree(root / "out", tmp_path / "out")
    draw(root / "parts" / "good", 1, 9, first=90)
    try:
        again = open_review(root / "bolts", root / "parts", tmp_path / "out")
        todo = [image.name for image in again._scoring._images]
        assert todo == ["good/090.png", "good/torn.png"]
        known = again.rows(0)
        expected = rows_of(client)
        assert dict(zip(known["name"], known["score"])) == {
            name: row["score"] for name, row in expected.items() if row["score"] is not None
        }
        again.close()
    finally:
        (root / "parts" / "good" / "090.png").unlink()


@pytest.mark.slow
def test_fifty_thousand_images_are_listed_whole(root, tmp_path):
    review, distances = open_large_review(root / "bolts", tmp_path, 50_000)
    with client_of(review) as client:
        columns = client.get("/api/images?since=0").json()
        progress = client.get("/api/progress").json()
        assert (progress["done"], progress["is_scoring"]) == (50_000, False)
    assert columns["name"] == [f"part-{n:06d}.png" for n in range(50_000)]
    assert len(set(columns["id"])) == 50_000
    calibration = calibrations.load(root / "bolts").calibration
    expected = calibration.score(distances, np.full(50_000, calibration.alignment.mean))
    np.testing.assert_allclose(columns["score"], expected, rtol=1e-12)
    assert set(columns["mark"]) == {"none"}


@pytest.mark.parametrize("damage", ["header", "page", "infinite", "text"])
def test_a_damaged_store_is_emptied(client, root, tmp_path, capsys, damage):
    file = tmp_path / "scores.sqlite"
    if damage == "header":
        file.write_bytes(b"SQLite format 3\0" + b"\1" * 3000)
    else:
        shutil.copy(root / "out" / "scores.sqlite", file)
    if damage == "page":
        with closing(sqlite3.connect(file)) as connection:
            (page,) = connection.execute(
                "SELECT rootpage FROM sqlite_master WHERE name = 'scores'"
            ).fetchone()
            (size,) = connection.execute("PRAGMA page_size").fetchone()
        with file.open("r+b") as opened:
            opened.seek((page - 1) * size)
            opened.write(b"\xff" * size)
    elif damage != "header":
        with closing(sqlite3.connect(file)) as connection:
            wrong = 9e999 if damage == "infinite" else "much"
            connection.execute("UPDATE scores SET alignment = ? WHERE rowid = 7", (wrong,))
            connection.commit()
    review = open_review(root / "bolts", root / "parts", tmp_path)
    assert len(review._scoring._images) == 49
    assert "the images are scored again" in capsys.readouterr().err
    review.close()


# Marks, verdicts and calibrations.


def test_marks_and_undo(root, tmp_path):
    shutil.copy(root / "out" / "scores.sqlite", tmp_path)
    id_ = make_id("good/001.png")
    with client_of(open_review(root / "bolts", root / "parts", tmp_path)) as client:
        assert client.post("/api/undo", json={"marks": "0"}).json() == {}
        for number, (shown, new) in enumerate([("none", "good"), ("good", "unsure")], 1):
            answer = mark(client, "good/001.png", new, shown)
            assert answer.json() == {"id": id_, "mark": new, "marks": number}
            # When the answer comes, the line is in the file.
            assert (tmp_path / "labels.csv").read_text().splitlines()[-1].split(",")[1:4] == [
                "mark", new, "good/001.png"
            ]  # fmt: skip
        undone = client.post("/api/undo", json={"marks": "2"}).json()
        assert undone == {"id": id_, "mark": "good", "marks": 3}
        assert mark(client, "good/torn.png", "good").status_code == 409
        in_use = client.get("/api/review").json()["calibration"]
        table = client.get(f"/verdicts.csv?threshold=0.001&calibration={in_use}")
    assert "attachment" in table.headers["content-disposition"]
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(table.text))}
    assert len(rows) == 49
    assert rows["good/001.png"]["verdict"] == "anomalous"
    assert rows["good/001.png"]["mark"] == "good"
    assert rows["good/001.png"]["decision"] == "normal"
    assert rows["good/002.png"]["decision"] == "anomalous"
    assert rows["good/torn.png"]["verdict"] == "unreadable"
    with client_of(open_review(root / "bolts", root / "parts", tmp_path)) as client:
        assert rows_of(client)["good/001.png"]["mark"] == "good"
        for bad in ("", "x", "nan", "inf"):
            assert client.get("/verdicts.csv", params={"threshold": bad}).status_code == 400
        refused = client.get("/verdicts.csv?threshold=1&calibration=00000000")
        assert refused.status_code == 409
        assert refused.json()["error"].startswith("calibration 00000000: was not in use in this review; load")


def test_windows_see_each_others_marks_and_overwrite_none_unseen(root, tmp_path):
    shutil.copy(root / "out" / "scores.sqlite", tmp_path)
    one, two = make_id("good/001.png"), make_id("good/002.png")
    with client_of(open_review(root / "bolts", root / "parts", tmp_path)) as client:

        def changes_since(count):
            answer = client.get("/api/progress", params={"marks": count}).json()
            return answer["marks"], answer["changes"]

        assert changes_since(0) == (0, [])
        mark(client, "good/001.png", "good")
        mark(client, "good/002.png", "defect")
        assert changes_since(0) == (2, [[one, "good"], [two, "defect"]])
        assert changes_since(1) == (2, [[two, "defect"]])
        assert client.get("/api/images?since=0").json()["marks"] == 2
        # A window that shows these images without a mark.
        saved = (tmp_path / "labels.csv").read_bytes()
        refused = mark(client, "good/001.png", "defect")
        assert refused.status_code == 409
        assert refused.json()["error"].startswith(
            "In another window, this image was marked good. Your mark is"
        )
        refused = client.post("/api/undo", json={"marks": "1"})
        assert refused.status_code == 409
        assert refused.json()["error"].startswith("In another window, images were marked since.")
        assert (tmp_path / "labels.csv").read_bytes() == saved
        # Both agree, or know.
        assert mark(client, "good/001.png", "good").status_code == 200
        assert mark(client, "good/001.png", "defect", "good").status_code == 200
        assert client.post("/api/undo", json={"marks": "4"}).json() == {"id": one, "mark": "good", "marks": 5}
        assert mark(client, "good/001.png", "none", "good").status_code == 200
        assert "was unmarked" in mark(client, "good/001.png", "defect", "good").json()["error"]
        assert client.get("/api/progress", params={"marks": "x"}).status_code == 400
        assert client.post("/api/undo", json={"marks": "-1"}).status_code == 400


def test_calibrating_from_marks_is_calibrate_and_can_be_taken_back(root, tmp_path):
    workdir = shutil.copytree(root / "bolts", tmp_path / "bolts")
    out = shutil.copytree(root / "out", tmp_path / "out")
    with client_of(open_review(workdir, root / "parts", out)) as client:
        refused = client.post("/api/recalibrate", json={"confidence": ""})
        assert refused.status_code == 409
        assert "no image is marked as good" in refused.json()["error"]
        before = client.get("/api/review").json()
        rows = rows_of(client)
        for number in range(20):
            mark(client, f"good/{number:03d}.png", "good")
        assert client.post("/api/recalibrate", json={"confidence": "2"}).status_code == 400
        sure = client.post("/api/recalibrate", json={"confidence": "0.95"}).json()
        assert calibrations.load(workdir).stored.confidence == 0.95
        client.post("/api/use", json={"id": sure["before"]})
        result = client.post("/api/recalibrate", json={"confidence": ""}).json()
        assert calibrations.load(workdir).stored.confidence is None
        assert not any("--" in line for line in result["lines"])
        after, now = client.get("/api/review").json(), rows_of(client)
        # The command makes the same calibration from the same images.
        stored = calibrations.load(workdir)
        assert stored.label.id == after["calibration"] != before["calibration"]
        assert len(stored.calibration.scores) == 20
        files = [root / "parts" / f"good/{number:03d}.png" for number in range(20)]
        digests = {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
        assert {image.name: image.sha256 for image in stored.stored.images} == digests
        scores = sorted(now[f"good/{number:03d}.png"]["score"] for number in range(20))
        assert scores == pytest.approx(list(stored.calibration.scores), rel=1e-6)
        assert result["before"] == before["calibration"]
        was = {row["id"] for row in rows.values() if (row["score"] or 0) > before["threshold"]}
        is_now = {row["id"] for row in now.values() if (row["score"] or 0) > after["threshold"]}
        assert set(result["changed"]) == was ^ is_now
        assert result["flagged_now"] == len(is_now - was)
        assert result["passed_now"] == len(was - is_now)
        assert any("flags at most" in line for line in result["lines"])
        # And back.
        client.post("/api/use", json={"id": result["before"]})
        assert client.get("/api/review").json() == before
        assert rows_of(client)["good/030.png"]["score"] == rows["good/030.png"]["score"]
        assert client.post("/api/use", json={"id": "../../x"}).status_code == 409
    assert [each.is_in_use for each in calibrations.list_all(workdir)] == [True, False, False]


def test_a_calibration_of_another_program_is_taken_over(root, tmp_path):
    workdir = shutil.copytree(root / "bolts", tmp_path / "bolts")
    out = shutil.copytree(root / "out", tmp_path / "out")
    good = draw(tmp_path / "good", 30, 7)
    with client_of(open_review(workdir, root / "parts", out)) as client:
        mark(client, "good/001.png", "good")
        before, rows = client.get("/api/review").json(), rows_of(client)
        address = f"/verdicts.csv?threshold={before['threshold']}&calibration={before['calibration']}"
        table = client.get(address).text
        heat = client.get(f"/heat/{make_id('blot/003.png')}").content
        made = recalibration.calibrate_run(workdir, [str(good)])
        assert client.get("/api/progress").json()["calibration"] == made.label.id
        after, now = client.get("/api/review").json(), rows_of(client)
        assert after["threshold"] == made.calibration.threshold != before["threshold"]
        expected = Detector.load(workdir).score(root / "parts" / "blot/003.png")
        assert now["blot/003.png"]["score"] == pytest.approx(expected.scores[0], rel=1e-6)
        assert now["blot/003.png"]["p_value"] == pytest.approx(expected.p_values[0])
        assert now["good/001.png"]["mark"] == "good"
        assert client.get(f"/heat/{make_id('blot/003.png')}").content != heat
        # A window that still shows the old scores gets the verdicts that it shows.
        assert client.get(address).text == table
        # The next calibration goes back to this one, and a mark names it.
        for number in range(20):
            mark(client, f"good/{number:03d}.png", "good", now[f"good/{number:03d}.png"]["mark"])
        assert made.label.id in (out / "labels.csv").read_text().splitlines()[-1].split(",")
        other = recalibration.calibrate_run(workdir, [str(good)], rate=0.2)
        assert client.post("/api/recalibrate", json={"confidence": ""}).json()["before"] == other.label.id
        calibrations.use(workdir, "training")
        assert client.get("/api/progress").json()["calibration"] == before["calibration"]
        assert {row["score"] for row in rows_of(client).values()} == {row["score"] for row in rows.values()}


def test_a_calibration_that_cannot_be_taken_over_is_said(root, tmp_path):
    workdir = shutil.copytree(root / "bolts", tmp_path / "bolts")
    review = open_review(workdir, draw(tmp_path / "parts", 2, 1), tmp_path / "out")
    in_use = review.describe()["calibration"]
    file = workdir / "calibrations" / "in_use.json"
    file.parent.mkdir()
    file.write_text("{")
    found = review.progress()
    assert found["calibration"] == in_use
    assert found["notes"].startswith(
        f"The review goes on with calibration {in_use}. {file}: this calibration"
    )
    file.unlink()
    # Trained on, and calibrated then.
    shutil.rmtree(workdir)
    config = replace(review.config, seed=5)
    make_run(workdir, config)
    made = recalibration.calibrate_run(workdir, [str(draw(tmp_path / "good", 30, 7))])
    again = type(review)(
        workdir, review._folder, review._run.now, review._found, review._store, review._marks
    )
    assert f"calibration {made.label.describe()} is in use now, but it belongs" in again.progress()["notes"]
    review.close()


def test_a_changed_image_loses_its_mark_and_is_scored_again(root, tmp_path):
    folder = draw(tmp_path / "parts", 3, 1)
    with client_of(open_review(root / "bolts", folder, tmp_path / "out")) as client:
        mark(client, "001.png", "defect")
    draw(folder, 1, 5, first=1)
    with client_of(open_review(root / "bolts", folder, tmp_path / "out")) as client:
        assert rows_of(client)["001.png"]["mark"] == "none"
        assert "1 image has changed since it was marked" in client.get("/api/progress").json()["notes"]
        assert rows_of(client)["000.png"]["label"] == ""
    with client_of(open_review(root / "bolts", folder, tmp_path / "out")) as client:
        assert "1 image has changed since it was marked" in client.get("/api/progress").json()["notes"]
        mark(client, "001.png", "good")
        assert client.get("/api/progress").json()["notes"] == ""


def test_an_image_that_changes_meanwhile_is_not_shown_and_does_not_calibrate(root, tmp_path):
    workdir = shutil.copytree(root / "bolts", tmp_path / "bolts")
    folder = draw(tmp_path / "parts", 30, 1)
    with client_of(open_review(workdir, folder, tmp_path / "out")) as client:
        for number in range(30):
            mark(client, f"{number:03d}.png", "good")
        draw(folder, 1, 5, blot=True, first=7)
        for kind in ("image", "heat"):
            assert client.get(f"/{kind}/{make_id('006.png')}").status_code == 200
            refused = client.get(f"/{kind}/{make_id('007.png')}")
            assert refused.status_code == 409
            assert refused.json()["error"] == (
                "007.png: has changed since it was scored; start the review again"
            )
        refused = client.post("/api/recalibrate", json={"confidence": ""})
        assert refused.status_code == 409
        assert "007.png: has changed since it was marked (1 such image(s)); start" in refused.json()["error"]
        assert not (workdir / "calibrations").exists()


def test_a_window_that_may_not_calibrate_keeps_no_thread(root, tmp_path, monkeypatch):
    monkeypatch.setattr(review_module, "PATIENCE_S", 0.01)
    review = open_review(root / "bolts", draw(tmp_path / "parts", 2, 1), tmp_path / "out")
    with review._alone():
        for change in (review.recalibrate, lambda: review.use("training")):
            with pytest.raises(UserError, match="another window calibrates this run; wait until it is done"):
                change()
        assert review.progress()["notes"] == ""
    review.close()


def test_images_of_one_part_count_once(tmp_path, monkeypatch):
    monkeypatch.setenv("DAAD_CACHE_DIR", str(tmp_path / "cache"))
    workdir = make_reviewed_run(tmp_path, data__group=r"(\d+)\d\.png")  # ten images of each part
    folder = draw(tmp_path / "parts", 40, 1)
    with client_of(open_review(workdir, folder, tmp_path / "out")) as client:
        before = client.get("/api/review").json()
        assert before["counts_groups"] is True
        rows = rows_of(client)
        parts = {name[:2]: row["group"] for name, row in rows.items()}
        assert len(set(parts.values())) == len(parts) == 4
        assert all(row["group"] == parts[name[:2]] for name, row in rows.items())
        for number in range(30):
            mark(client, f"{number:03d}.png", "good")
        lines = client.post("/api/recalibrate", json={"confidence": ""}).json()["lines"]
        assert any("set from 30 held-out images of 3 groups" in line for line in lines)
        assert client.get("/api/review").json()["steps"]["rates"][-1] == pytest.approx(1 / 4)


def test_a_missing_table_of_groups_is_said(root, tmp_path):
    review = open_review(root / "bolts", draw(tmp_path / "parts", 2, 1), tmp_path / "out")
    run = review._run.now
    data = replace(run.config.data, group="parts.csv:part")
    arguments = review._folder, run._replace(config=replace(run.config, data=data)), review._found
    again = type(review)(review._run.workdir, *arguments, review._store, review._marks)
    assert "parts.csv: this file does not exist" in again.progress()["notes"]
    review.close()


@pytest.mark.slow
@needs_emulator
@pytest.mark.usefixtures("emulator")
def test_run_and_images_may_be_in_a_bucket(client, root, tmp_path):
    upload_folder(root / "parts", "reviewed/parts")
    upload_folder(root / "bolts", "reviewed/bolts")
    workdir, folder = (open_place(f"gs://{BUCKET}/reviewed/{name}") for name in ("bolts", "parts"))
    expected = rows_of(client)
    with client_of(open_review(workdir, folder, tmp_path / "out")) as remote:
        found = rows_of(remote)
        assert {name: row["score"] for name, row in found.items()} == {
            name: row["score"] for name, row in expected.items()
        }
        for kind in ("image", "thumbnail", "heat", "reconstruction"):
            assert remote.get(f"/{kind}/{make_id('blot/003.png')}").status_code == 200
        for number in range(20):
            mark(remote, f"good/{number:03d}.png", "good")
        assert remote.post("/api/recalibrate", json={"confidence": ""}).status_code == 200
        assert calibrations.load(workdir).label.id == remote.get("/api/review").json()["calibration"]


# What the folder is.


def test_folders_without_both_kinds_give_no_labels(tmp_path):
    draw(tmp_path / "a" / "one", 2, 0)
    draw(tmp_path / "a" / "two", 2, 0)
    from tests.tiny import tiny_config

    data = tiny_config().data
    found = list_images(tmp_path / "a", data, tmp_path / "out")
    assert [image.label for image in found.images] == [""] * 4
    draw(tmp_path / "b" / "test" / "good", 2, 0)
    draw(tmp_path / "b" / "test" / "crack", 2, 0)
    draw(tmp_path / "b" / "ground_truth" / "crack", 2, 0)
    found = list_images(tmp_path / "b", data, tmp_path / "out")
    assert [image.label for image in found.images] == ["defect", "defect", "good", "good"]
    assert found.left_out == {"mask": 2}


def test_a_folder_without_images_is_one_line(tmp_path):
    from tests.tiny import tiny_config

    data = tiny_config().data
    with pytest.raises(UserError, match="this folder does not exist; give the folder of the images"):
        list_images(tmp_path / "none", data, tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"this folder has no images \(1 not an image \(.txt\)\)"):
        list_images(tmp_path / "empty", data, tmp_path / "out")


def test_names_cannot_turn_the_page(root, tmp_path):
    folder = tmp_path / "parts"
    draw(folder, 2, 0)
    evil = "<img src=x onerror=alert(1)>\u202egnp.png"
    (folder / "000.png").rename(folder / evil)
    (folder / "001.png").rename(folder / "\udcff.png")
    with client_of(open_review(root / "bolts", folder, tmp_path / "out")) as client:
        assert set(rows_of(client)) == {"<img src=x onerror=alert(1)>\\u202egnp.png", "\\xff.png"}
        for name in (evil, "\udcff.png"):
            assert mark(client, name, "good").status_code == 200
