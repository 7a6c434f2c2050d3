"""Injects the same faults into a checkout of any version, and counts what becomes of them.

    python -m tests.faults.by_version CHECKOUT [--bits 120] [--bytes 10]

It uses only what all versions have: the scripts, and `daad_jax.detector` or `daad_jax.detection.detector`.
Each line says how many faults were tried, and how many ended right, wrong and lost, see `tally`.
"""

import argparse
import csv
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from tests.faults.small_run import OPTIONS
from tests.faults.tally import Tally

TIMEOUT_S = 120
# Reads paths of workdirs, and writes the scores of one image or the error.
SCORER = """
import json, sys
try:
    from daad_jax.detection.detector import Detector
except ImportError:
    from daad_jax.detector import Detector
from daad_jax.errors import UserError
image = sys.argv[1]
for line in sys.stdin:
    try:
        found = Detector.load(line.strip()).score([image])
        answer = [repr(float(found.scores[0])), bool(found.anomalous[0])]
    except UserError as error:
        answer = ["refused", str(error)]
    except Exception as error:
        answer = ["traceback", type(error).__name__]
    print("answer " + json.dumps(answer), flush=True)
"""


class Version:
    """A checkout, with a folder for its run."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        self.checkout, self.folder, self.images = checkout, folder, folder / "images"
        self.run, self.cache = folder / "run", folder / "cache"
        _make_images(self.images)

    @property
    def environment(self) -> dict[str, str]:
        settings = {"PYTHONPATH": str(self.checkout), "DAAD_CACHE_DIR": str(self.cache), "XLA_FLAGS": ""}
        settings["JAX_COMPILATION_CACHE_DIR"] = str(self.folder / "programs")
        return os.environ | settings

    def call(self, script: str, *words: object, cwd: Path | None = None) -> tuple[int, str, str]:
        """(exit status, standard output, standard error) of a command; -1 if it hangs."""
        command = [sys.executable, str(self.checkout / script), *map(str, words)]
        try:
            child = subprocess.run(
                command,
                cwd=cwd or self.checkout,
                env=self.environment,
                capture_output=True,
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            return -1, "", ""
        return child.returncode, child.stdout.decode(errors="replace"), child.stderr.decode(errors="replace")

    def train(self, workdir: Path, *words: str) -> tuple[int, str, str]:
        config = f"--config={self.checkout / 'configs/folder.py'}:{self.images},daad_plus,smoke"
        return self.call("train.py", config, f"--workdir={workdir}", *OPTIONS, *words)

    def copy(self, name: str) -> Path:
        """A new copy of the finished run."""
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.run, place)
        return place

    @contextmanager
    def scorer(self) -> Iterator[Callable[[Path], list[object]]]:
        """Yields a function from a workdir to what a detector says; its process starts anew if it dies."""
        image = str(self.images / "test" / "hole" / "0.png")
        children: list[subprocess.Popen[str]] = []

        def ask(workdir: Path) -> list[object]:
            if not children or children[-1].poll() is not None:
                children.append(
                    subprocess.Popen(
                        [sys.executable, "-c", SCORER, image], env=self.environment, text=True,
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                    )
                )  # fmt: skip
            child = children[-1]
            assert child.stdin
            assert child.stdout
            child.stdin.write(f"{workdir}\n")
            child.stdin.flush()
            for line in child.stdout:
                if line.startswith("answer "):
                    return list(json.loads(line.removeprefix("answer ")))
            return ["died", child.wait()]

        yield ask
        for child in children:
            child.kill()
            child.communicate()


def _make_images(root: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train/good", 20), ("test/good", 6), ("test/hole", 6)):
        folder = root / part
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 60, (32, 32, 3), np.uint8)
            pixels[8:20, 8:20] += np.uint8(180 if "hole" in part else 0)
            Image.fromarray(pixels).save(folder / f"{number}.png")


def flip_bits(version: Version, count: int) -> Tally:
    """Flips single bits in the files of a checkpoint."""
    tally, rng = Tally("one bit of a checkpoint"), random.Random(0)
    with version.scorer() as ask:
        expected = ask(version.run)
        for _ in range(count):
            place = version.copy("flipped")
            files = sorted(p for p in (place / "checkpoints").rglob("*") if p.is_file() and p.stat().st_size)
            file = rng.choice(files)
            content = bytearray(file.read_bytes())
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            file.write_bytes(content)
            _judge_answer(tally, ask(place), expected, str(file.relative_to(place)))
    return tally


def _judge_answer(tally: Tally, found: list[object], expected: list[object], what: str) -> None:
    if found == expected or found[0] == "refused":
        tally.right()
    elif found[0] in ("traceback", "died"):
        tally.lost(f"{found[0]} {found[1]}")
    else:
        kind = "NaN, and a verdict" if "nan" in str(found[0]) else "another score"
        tally.wrong(f"{kind} ({what.split('/')[2:3]})")


def swap_steps(version: Version) -> Tally:
    """Puts the files of one step below the number of another, and the calibration of another training."""
    tally = Tally("files of another step or run")
    other = version.folder / "other"
    code, _, err = version.train(other, "--config.seed=1", "--config.train.max_to_keep=1")
    assert code == 0, err
    with version.scorer() as ask:
        expected = ask(version.run)
        newest = max(
            (version.run / "checkpoints").iterdir(), key=lambda p: int(p.name) if p.name.isdecimal() else 0
        )
        for part in sorted(path for path in newest.iterdir() if path.is_dir()):
            place = version.copy("swapped")
            target = place / "checkpoints" / newest.name / part.name
            shutil.rmtree(target)
            shutil.copytree(other / "checkpoints" / newest.name / part.name, target)
            _judge_answer(tally, ask(place), expected, f"//{part.name}")
    return tally


def change_cached_bytes(version: Version, count: int) -> Tally:
    """Changes a byte of the cached images, and evaluates."""
    tally, rng = Tally("one byte of the cached images"), random.Random(0)

    def scores() -> list[list[str]]:
        place = version.copy("cached")
        code, _, err = version.call("evaluate.py", f"--workdir={place}")
        assert code == 0, err
        with (place / "scores.csv").open(newline="") as file:
            return list(csv.reader(file))

    expected = scores()
    for _ in range(count):
        files = [
            p for p in version.cache.rglob("*.npy") if p.stat().st_size > 2000 and "programs" not in str(p)
        ]
        file = rng.choice(sorted(files))
        content = bytearray(file.read_bytes())
        content[rng.randrange(500, len(content))] ^= 0x80
        file.write_bytes(content)
        try:
            if scores() == expected:
                tally.right()
            else:
                tally.wrong("other scores")
        except AssertionError as error:
            tally.lost(str(error).strip().splitlines()[-1][:60])
        content = bytearray(file.read_bytes()) if file.exists() else content
        shutil.rmtree(version.cache, ignore_errors=True)  # the next try begins with whole files
        scores()
    return tally


def _is_one_line(code: int, err: str) -> bool:
    return code == 2 and "Traceback" not in err and len(err.strip().splitlines()) == 1


def refuse_words(version: Version) -> Tally:
    """Gives commands what they must refuse in one line."""
    tally = Tally("words that must be refused")
    good, pipe = str(version.images / "test" / "good"), version.folder / "pipe"
    os.mkfifo(pipe)
    predict = ("predict.py", f"--workdir={version.run}")
    for script, *words in (
        (*predict, ""),
        (*predict, "--threshold=nan", good),
        (*predict, str(pipe)),
        (*predict, "x" * 300),
        (*predict, good, "--out=s3://bucket/x"),
        (*predict, good, f"--batch_size={10**12}"),
        ("train.py", f"--config=folder:{good},smoke", "--config.data.shift=100000"),
        ("train.py", f"--config=folder:{good},smoke", "--config.name=../../../x"),
        ("train.py", f"--config=folder:{good},smoke", f"--config.train.batch_size={10**12}"),
    ):
        code, _, err = version.call(script, *words, cwd=version.folder)
        ending = "hangs" if code == -1 else f"status {code}, {len(err.splitlines())} lines"
        shown = f"{words[-1][:40]!r}: {ending}"
        if _is_one_line(code, err):
            tally.right()
        elif code == 0:
            tally.wrong(shown)
        else:
            tally.lost(shown)
    return tally


def damage_log(version: Version) -> Tally:
    """Damages files beside the checkpoints, and resumes."""
    tally = Tally("damaged log or config, then resumed")
    for name, content in (
        ("metrics.jsonl", b'{"step": null}\n'),
        ("metrics.jsonl", b"\xff\xfe\n"),
        ("metrics.jsonl", b"[1, 2]\n"),
        ("config.json", b"\xff\xfe"),
        ("config.json", b'{"step": null}'),
    ):
        place = version.copy("logged")
        (place / name).write_bytes(content)
        code, _, err = version.train(place, "--config.train.steps=16")
        if (code == 0 and "Traceback" not in err) or _is_one_line(code, err):
            tally.right()
        else:
            tally.lost(f"{name} {content[:16]!r}: status {code}, {len(err.splitlines())} lines")
    return tally


def diverge(version: Version) -> Tally:
    """Trains with learning rates that end in NaN; no checkpoint may score NaN."""
    tally = Tally("trainings that diverge")
    with version.scorer() as ask:
        for rate in ("1e5", "1e8", "1e20"):
            place = version.folder / f"diverged-{rate}"
            words = (f"--config.train.learning_rate={rate}", "--config.train.checkpoint_every=1")
            code, _, err = version.train(place, *words)
            found = ask(place)
            if "nan" in str(found[0]) or found[0] in ("traceback", "died"):
                tally.wrong(f"{rate}: training ended with status {code}, and a detector says {found}")
            elif "Traceback" in err:
                tally.lost(f"{rate}: traceback")
            else:
                tally.right()
    return tally


def name_files_badly(version: Version) -> Tally:
    """Scores files whose names could do harm in a table or on a terminal."""
    tally = Tally("names in tables and terminals")
    folder = version.folder / "names"
    folder.mkdir()
    for name in ("=1+1.png", "a\rb.png", "\x1b[31mred.png"):
        shutil.copy(version.images / "test" / "good" / "0.png", folder / name)
    out = version.folder / "named"
    code, printed, err = version.call("predict.py", f"--workdir={version.run}", folder, f"--out={out}")
    text = (out / "scores.csv").read_bytes().decode() if code == 0 else ""
    rows = list(csv.reader(text.replace("\r\n", "\n").splitlines(keepends=True)))
    checks = {
        "a row for each file": len(rows) == 4 and all(len(row) == len(rows[0]) for row in rows),
        "no formula": not any(cell.startswith("=") for row in rows for cell in row),
        "no escape code in the table": "\x1b" not in text,
        "no escape code on the terminal": "\x1b" not in printed + err,
    }
    for name, is_right in checks.items():
        if is_right:
            tally.right()
        else:
            tally.wrong(name)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, help="a folder with train.py")
    parser.add_argument("--bits", type=int, default=120, help="how many bits of a checkpoint are flipped")
    parser.add_argument("--bytes", type=int, default=10, help="how many bytes of the cache are changed")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        version = Version(given.checkout.resolve(), Path(folder))
        code, _, err = version.train(version.run, "--config.train.max_to_keep=1")
        if code:
            sys.exit(f"the training failed: {err}")
        start = time.monotonic()
        for part in (
            lambda: flip_bits(version, given.bits),
            lambda: swap_steps(version),
            lambda: change_cached_bytes(version, given.bytes),
            lambda: refuse_words(version),
            lambda: damage_log(version),
            lambda: diverge(version),
            lambda: name_files_badly(version),
        ):
            part().print()
        print(f"\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
