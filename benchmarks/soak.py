"""Trains, is preempted, evaluates and predicts again and again, beside a server, and shows what grows.

    python -m benchmarks.soak --minutes 20 --out soak

Each round goes on with one run: it is stopped by SIGTERM at a random moment, resumes, is evaluated, and
scores images. A server (`daad-jax serve`, a process of its own) answers requests in each round. Memory, open
files, threads and disk are measured at the end of each round. OUT gets soak.json and soak.png. It prints how
much each of them grows, measured from the second half of the rounds.
"""

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import httpx2 as httpx
import numpy as np
from PIL import Image

from benchmarks.served_run import serving
from daad_jax.config import Config
from daad_jax.detection.detector import Detector
from daad_jax.detection.predictions import predict
from daad_jax.evaluation.outputs import evaluate
from daad_jax.runtime import startup
from daad_jax.training.loop import train

SIZE = 32  # pixels of each side of an image
TRAINING_IMAGES, TEST_IMAGES, SCORED_IMAGES = 40, 10, 2000
STEPS_OF_A_ROUND = 40
LATEST_SIGNAL_S = 2.0
REQUESTS = 100  # to the server in a round
MEASURED = {
    "memory": "MB",
    "open files": "",
    "threads": "",
    "memory of the server": "MB",
    "open files of the server": "",
    "threads of the server": "",
    "disk": "MB",
}


def make_images(root: Path) -> None:
    """Stripes are normal; stripes with a blot are not."""
    rng = np.random.default_rng(0)
    stripes = np.tile(np.arange(SIZE, dtype=np.uint8) % 8 * 20, (SIZE, 1))[..., None]
    parts = {
        "set/train/good": TRAINING_IMAGES,
        "set/test/good": TEST_IMAGES,
        "set/test/blot": TEST_IMAGES,
        "new": SCORED_IMAGES,
    }
    for part, count in parts.items():
        (root / part).mkdir(parents=True)
        for number in range(count):
            image = stripes + rng.integers(0, 20, (SIZE, SIZE, 3)).astype(np.uint8)
            if part.endswith("blot"):
                image[8:20, 8:20] = 255
            Image.fromarray(image).save(root / part / f"{number}.png")


def make_config(root: Path) -> Config:
    """Small networks on the images below `root`."""
    config = Config(name="soak")
    config.data.source, config.data.protocol = "folder", "inspection"
    config.data.path, config.data.cache_dir = str(root / "set"), str(root / "cache")
    config.data.height = config.data.width = SIZE
    config.model.levels, config.model.skips = 2, (True,)
    config.model.base_width = config.model.discriminator_width = 4
    config.model.memory_items, config.model.division = (3, 3), ((1, 1, 1), (2, 2, 1))
    config.train.batch_size, config.train.checkpoint_every = 8, STEPS_OF_A_ROUND // 2
    config.train.log_every = 10
    return config


def run_round(root: Path, config: Config, number: int, rng: random.Random) -> bool:
    """Goes on with the run, and uses it. Returns whether a signal came while it trained."""
    workdir, out = root / "run", root / "predictions"
    config.train.steps = number * STEPS_OF_A_ROUND
    timer = threading.Timer(rng.uniform(0, LATEST_SIGNAL_S), os.kill, (os.getpid(), signal.SIGTERM))
    was_stopped = False
    received = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a signal outside the training is none
    timer.start()
    try:
        train(config, workdir)
    except SystemExit:
        was_stopped = True
    finally:
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGTERM, received)
    if was_stopped:
        train(config, workdir)
    evaluate(workdir)
    predict(Detector.load(workdir), [str(root / "new")], out, "anomalous")
    shutil.rmtree(out)
    return was_stopped


def ask(address: str, images: Sequence[Path]) -> None:
    """Lets a server score images, one in a request. Raises an error if an image has no score."""
    with httpx.Client(base_url=address, timeout=60) as client:
        for image in images:
            answer = client.post("/score", content=image.read_bytes(), headers={"content-type": "image/png"})
            answer.raise_for_status()


def measure(root: Path, server: int) -> list[float]:
    """What `MEASURED` names: of this process, of the process `server`, and the disk below `root`."""
    return [
        *_measure_process(os.getpid()),
        *_measure_process(server),
        sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) / 1e6,
    ]


def _measure_process(pid: int) -> list[float]:
    """Memory in MB, open files and threads."""
    folder = Path(f"/proc/{pid}")
    pages = int((folder / "statm").read_text().split()[1])
    return [
        pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        len(os.listdir(folder / "fd")),
        len(os.listdir(folder / "task")),
    ]


def describe(samples: np.ndarray) -> list[str]:
    """A line for each measured quantity: its last value, and how much it grows a round."""
    lines, half = [], samples[len(samples) // 2 :]
    for index, (name, unit) in enumerate(MEASURED.items()):
        values = half[:, index]
        slope = np.polyfit(np.arange(len(values)), values, 1)[0] if len(values) > 1 else 0.0
        slope = round(slope, 3) + 0.0  # no "-0.000"
        lines.append(
            f"{name}: {values[-1]:.1f} {unit} at the end, {slope:+.3f} {unit} a round".replace("  ", " ")
        )
    return lines


def draw(samples: np.ndarray, file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6), layout="constrained")
    axes_of_all = list(figure.subplots(2, -(-len(MEASURED) // 2)).flat)
    for axes in axes_of_all[len(MEASURED) :]:
        axes.remove()
    for axes, (name, unit), values in zip(axes_of_all, MEASURED.items(), samples.T):
        axes.plot(np.arange(1, len(values) + 1), values)
        axes.set(title=name, xlabel="round", ylabel=unit, ylim=(0, 1.1 * values.max()))
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--out", type=Path, default=Path("soak"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    startup.quiet_libraries()
    rng, stops = random.Random(options.seed), 0
    samples: list[list[float]] = []
    with tempfile.TemporaryDirectory() as folder, (options.out / "log").open("w") as log:
        root = Path(folder)
        make_images(root)
        config = make_config(root)
        with redirect_stdout(log):
            stops += run_round(root, config, 1, rng)
        with serving(root / "run") as server:
            until = time.monotonic() + 60 * options.minutes
            while time.monotonic() < until or not samples:
                with redirect_stdout(log):
                    stops += run_round(root, config, len(samples) + 2, rng)
                ask(server.address, sorted((root / "new").iterdir())[:REQUESTS])
                samples.append(measure(root, server.pid))
    rounds = np.array(samples)
    (options.out / "soak.json").write_text(json.dumps({"measured": list(MEASURED), "rounds": samples}))
    draw(rounds, options.out / "soak.png")
    images = len(rounds) * SCORED_IMAGES
    print(
        f"{len(rounds)} rounds, {stops} of them stopped by SIGTERM, {images} images scored, "
        f"{len(rounds) * REQUESTS} requests"
    )
    print(*describe(rounds), sep="\n")


if __name__ == "__main__":
    main()
