"""`daad-jax review` as a user starts it: a real process on loopback, and mistakes in one line."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")
from daad_jax.errors import UserError
from daad_jax.reviewing.review_server import FOLDER_FILE, find_place, review
from tests.reviewing.small_review import draw, make_reviewed_run

ROOT = Path(__file__).parents[2]


def start(*arguments):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}  # one device
    return subprocess.Popen(
        [sys.executable, "-m", "daad_jax", "review", *map(str, arguments)],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
def test_it_serves_one_review_until_a_signal(tmp_path):
    workdir, folder = make_reviewed_run(tmp_path), draw(tmp_path / "parts", 3, 1)
    child = start("--workdir", workdir, folder)
    try:
        lines = [child.stdout.readline().strip() for _ in range(3)]
        assert (workdir / "review/parts" / FOLDER_FILE).read_text() == str(folder)
        assert lines[0] == f"3 images; marks are written to {workdir}/review/parts/labels.csv"
        address = lines[2].removeprefix("review at ")
        assert address.startswith("http://127.0.0.1:")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(address.partition("?")[0])
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        assert b"<title>Review</title>" in opener.open(address).read()
        with opener.open(address.partition("?")[0] + "api/review") as answer:
            assert json.load(answer)["total"] == 3
        # A second review of the same folder would write into the same files.
        with pytest.raises(UserError, match=f"{workdir}/review/parts: another review writes here; use its"):
            review(workdir, str(folder), None, 0)
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 143
        assert child.stderr.read().splitlines() == ["python -m daad_jax review: stopped by SIGTERM"]
    finally:
        child.kill()
        child.communicate()


def test_folders_of_one_name_have_marks_of_their_own(tmp_path):
    run, folders = tmp_path / "run", [str(tmp_path / name / "parts") for name in ("a", "b")]
    places = []
    for folder in folders:
        places.append(find_place(run, folder))
        places[-1].mkdir(parents=True)
        (places[-1] / FOLDER_FILE).write_text(folder)
    assert places == [run / "review" / "parts", run / "review" / "parts-2"]
    assert [find_place(run, f"{folder}/") for folder in folders] == places
    assert find_place(run, "gs://b/c/parts/") == run / "review" / "parts-3"
    # A review of an older version goes on.
    (places[0] / FOLDER_FILE).unlink()
    assert find_place(run, "/elsewhere/parts") == places[0]


def test_a_folder_without_images_leaves_nothing(tmp_path):
    workdir = make_reviewed_run(tmp_path)
    (tmp_path / "empty").mkdir()
    for folder, says in (("none", "this folder does not exist"), ("empty", "this folder has no images")):
        with pytest.raises(UserError, match=says):
            review(workdir, str(tmp_path / folder), None, 0)
        with pytest.raises(UserError, match=says):
            review(workdir, str(tmp_path / folder), str(tmp_path / "out"), 0)
    assert not (workdir / "review").exists()
    assert not (tmp_path / "out").exists()


def test_a_forgotten_folder_is_one_line(tmp_path):
    child = start("--workdir", tmp_path)
    _, error = child.communicate(timeout=120)
    assert child.returncode == 2
    assert error == "python -m daad_jax review: error: give the folder of the images to review; one folder\n"
