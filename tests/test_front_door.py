"""The public interface: its names, the images that it takes, and where a training may run."""

import asyncio
import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import daad_jax
from daad_jax import Config, Detections, Detector, UserError, load_recipe, train

ROOT = Path(__file__).parents[1]
RNG = np.random.default_rng(0)


def make_config(folder: Path, name: str = "tiny") -> Config:
    config = load_recipe(f"folder:{folder},daad_plus,smoke")
    config.name = name
    config.data.height = config.data.width = 32
    config.model.base_width = config.model.discriminator_width = 4
    config.train.steps, config.train.batch_size, config.train.devices = 2, 4, 1
    config.train.log_every = config.train.checkpoint_every = 1
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of good images, whose decoded copies stay beside it."""
    root = tmp_path_factory.mktemp("door")
    (root / "good").mkdir()
    for i in range(12):
        Image.fromarray(RNG.integers(0, 256, (32, 32, 3), np.uint8)).save(root / "good" / f"{i}.png")
    os.environ["DAAD_CACHE_DIR"] = str(root / "cache")
    yield root
    del os.environ["DAAD_CACHE_DIR"]


@pytest.fixture(scope="module")
def detector(folder):
    train(make_config(folder / "good"), str(folder / "run"))
    return Detector.load(str(folder / "run"))


def test_public_names_are_there_and_documented():
    assert daad_jax.__all__ == [
        "Config",
        "Detections",
        "Detector",
        "Split",
        "Splits",
        "TrainingResult",
        "UserError",
        "draw_overlay",
        "load_recipe",
        "train",
    ]
    for name in daad_jax.__all__:
        assert getattr(daad_jax, name).__doc__, name
        assert name in dir(daad_jax)
    with pytest.raises(AttributeError, match="no attribute 'detect'"):
        _ = daad_jax.detect


def test_every_kind_of_image_gives_the_same_score(detector, folder):
    path = folder / "good" / "0.png"
    pixels = np.asarray(Image.open(path))
    kinds = {
        "path": path,
        "text": str(path),
        "bytes": path.read_bytes(),
        "bytearray": bytearray(path.read_bytes()),
        "numpy": pixels,
        "jax": jnp.asarray(pixels),
        "pillow": Image.open(path),
        "16 bit": pixels.astype(np.uint16) * 257,
        "with alpha": np.concatenate([pixels, np.full((32, 32, 1), 255, np.uint8)], axis=-1),
    }
    expected = detector.score(path)
    assert isinstance(expected, Detections)
    for kind, image in kinds.items():
        one = detector.score(image)
        assert one.scores.tolist() == expected.scores.tolist(), kind
    together = detector.score([*kinds.values()])
    np.testing.assert_array_equal(together.scores, np.repeat(expected.scores, len(kinds)))


def test_several_images_come_in_any_iterable(detector, folder):
    paths = sorted((folder / "good").iterdir())[:3]
    batch = np.stack([np.asarray(Image.open(path)) for path in paths])
    expected = detector.score(paths).scores
    for images in (tuple(paths), iter(paths), batch, jnp.asarray(batch), [*batch]):
        np.testing.assert_array_equal(detector.score(images).scores, expected)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (None, "an object of type NoneType is no image; give a path"),
        (5, "an object of type int is no image"),
        ({"a.png": 1}, "an object of type dict is no image"),
        ([[1, 2], [3, 4]], "image 0: an object of type list is no image"),
        ([None], "image 0: an object of type NoneType is no image"),
        ([], "no images were given"),
        (np.zeros((2, 32, 32, 3), np.int64), "image 0: .*int64"),
        (np.zeros(5, np.uint8), r"image 0: .*\(5,\)"),
        (Image.new("RGB", (0, 5)), "image 0: the image has no pixels"),
        (b"no image", "image 0: the image cannot be read"),
        ("missing.png", r"missing\.png: this file does not exist"),
        (".", "this is a folder; give its files"),
    ],
)
def test_anything_else_is_refused_by_name(detector, images, says):
    with pytest.raises(UserError, match=says):
        detector.score(images)


def test_a_threshold_is_a_number(detector):
    before = detector.threshold
    with pytest.raises(UserError, match="the threshold is NaN"):
        detector.threshold = float("nan")
    assert detector.threshold == before


def test_a_broken_pillow_image_is_refused(detector):
    file = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)).save(file, "PNG")
    cut = Image.open(io.BytesIO(file.getvalue()[:2000]))
    with pytest.raises(UserError, match="image 0: the image cannot be read"):
        detector.score(cut)


def test_train_refuses_an_impossible_configuration(folder):
    config = make_config(folder / "good")
    config.score.gamma = 2.0
    with pytest.raises(UserError, match=r"config\.score\.gamma = 2\.0"):
        train(config, folder / "never")
    assert not (folder / "never").exists()


def test_train_runs_in_a_worker_thread(folder):
    """Python lets only the main thread handle signals."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    errors: list[BaseException] = []

    def work():
        try:
            train(make_config(folder / "good"), folder / "thread")
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert errors == []
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert len(Detector.load(folder / "thread").score(folder / "good" / "1.png")) == 1


def test_train_runs_inside_an_event_loop(folder):
    """As in a notebook, whose cells run inside one."""

    async def cell():
        train(make_config(folder / "good"), folder / "loop")

    asyncio.run(cell())
    assert Detector.load(folder / "loop").step == 2


# A notebook's `%run train.py ...` twice, in one process that has state of its own.
NOTEBOOK = """
import os, runpy, sys
state = os.getpid()
for steps in (1, 2):
    sys.argv = ["train.py", *sys.argv[1:6], f"--config.train.steps={steps}"]
    runpy.run_path("train.py", run_name="__main__")
print("the notebook goes on", state == os.getpid())
"""


@pytest.mark.slow
def test_scripts_run_twice_in_a_notebook(folder):
    words = [f"--config=folder:{folder / 'good'},daad_plus,smoke", f"--workdir={folder / 'notebook'}"]
    small = ["--config.data.height=32", "--config.data.width=32", "--config.model.base_width=4"]
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK, *words, *small],
        cwd=ROOT, env={k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "resumed from step 1" in done.stdout
    assert done.stdout.splitlines()[-1] == "the notebook goes on True"
