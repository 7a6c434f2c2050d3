"""A small run, a folder with blots, and the review of it, for the tests of this folder."""

import io
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from daad_jax.data.image_files import ImageFile
from daad_jax.reviewing.folder_images import FolderImages, ReviewImage, list_images, make_id
from daad_jax.reviewing.marks import Marks
from daad_jax.reviewing.review import Review
from daad_jax.reviewing.routes import make_app
from daad_jax.reviewing.run_in_use import store_key
from daad_jax.reviewing.score_store import ScoreStore, StoredScore
from daad_jax.training import calibrations
from tests.tiny import tiny_config
from tests.untrained_run import make_run

TOKEN, COOKIE = "a-token", "daad_review_1"
ORIGIN = {"Origin": "http://127.0.0.1"}


def draw(folder: Path, count: int, seed: int, blot: bool = False, first: int = 0) -> Path:
    """Images of even grey with noise, 16 x 24 pixels; with a bright blot if `blot`."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        pixels = rng.integers(90, 110, (16, 24, 3), np.uint8)
        if blot:
            pixels[4:10, 4:10] = 250
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return folder


def make_reviewed_run(folder: Path, **changes: object) -> Path:
    """A run of networks that never trained, calibrated as the training does, on images of its own.

    `changes`: see `tiny_config`.
    """
    draw(folder / "set", 60, 0)
    config = tiny_config(
        data__source="folder", data__path=str(folder / "set"), data__calibration_fraction=0.4,
        data__protocol="inspection", data__fit="resize", score__batch_size=4,
        **changes,
    )  # fmt: skip
    return make_run(folder / "bolts", config)


def draw_folder(folder: Path) -> Path:
    """The folder of a review: 40 good images, 8 with a blot, a damaged one, and a file that is no image."""
    draw(folder / "good", 40, 1)
    draw(folder / "blot", 8, 2, blot=True)
    (folder / "good" / "torn.png").write_bytes((folder / "good" / "000.png").read_bytes()[:60])
    (folder / "notes.txt").write_text("no image")
    return folder


def open_review(workdir: Path, folder: Path, out: Path) -> Review:
    out.mkdir(parents=True, exist_ok=True)
    run = calibrations.load(workdir)
    store = ScoreStore(out / "scores.sqlite", store_key(run))
    found = list_images(folder, run.config.data, out)
    return Review(workdir, folder, run, found, store, Marks(out / "labels.csv"))


def open_large_review(
    workdir: Path, out: Path, count: int, with_thumbnails: bool = False
) -> tuple[Review, np.ndarray]:
    """A review of images that were all scored before, and their distances R `[count]`. There are no files."""
    out.mkdir(parents=True, exist_ok=True)
    run = calibrations.load(workdir)
    store = ScoreStore(out / "scores.sqlite", store_key(run))
    names = [f"part-{n:06d}.png" for n in range(count)]
    nowhere = ImageFile(out / "none.png")
    images = [ReviewImage(make_id(name), name, nowhere, "1", "") for name in names]
    unit = run.calibration.reconstruction
    distances = unit.mean + unit.std * np.random.default_rng(0).lognormal(0, 1, count)
    alignment = run.calibration.alignment.mean
    store.write_scores(
        (image.id, "1", StoredScore(float(r), alignment, False, "ab" * 32))
        for image, r in zip(images, distances)
    )
    file = io.BytesIO()
    Image.fromarray(np.full((48, 64, 3), 128, np.uint8)).save(file, "PNG")
    for image in images if with_thumbnails else []:
        store.write_thumbnail(image.id, "1", file.getvalue())
    review = Review(workdir, out, run, FolderImages(images, Counter()), store, Marks(out / "labels.csv"))
    return review, distances


@contextmanager
def client_of(review: Review):
    """A browser that has opened the page, when all images are scored."""
    app = make_app(review, TOKEN, COOKIE, 2)
    with TestClient(app, base_url="http://127.0.0.1", headers=ORIGIN) as client:
        assert client.get(f"/?token={TOKEN}").status_code == 200
        review._scoring._thread.join()
        yield client
