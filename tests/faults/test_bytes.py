"""Bits that flip and files that are cut, zeroed, emptied or removed, in a checkpoint and in the cache."""

import contextlib
import io
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from daad_jax.config import Config
from daad_jax.data import cache
from daad_jax.errors import UserError
from daad_jax.method.state import create_state
from daad_jax.scoring.anomaly_score import Calibration, Unit
from daad_jax.training import checkpoint
from tests.data.test_cache import source
from tests.faults.tally import Tally, scaled
from tests.tiny import filled_state, tiny_config, tiny_feature_config

pytestmark = [
    pytest.mark.slow,
    # TensorStore calls back into an event loop that Orbax has closed after an error.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
CALIBRATION = Calibration(*[Unit(1.5, 0.5)] * 4, 2.0, 1.0, 0.05, (0.5, 1.25))
WAYS: dict[str, Callable[[bytes], bytes | None]] = {
    "cut in half": lambda content: content[: len(content) // 2],
    "cut by a byte": lambda content: content[:-1],
    "zeroed": lambda content: bytes(len(content)),
    "emptied": lambda content: b"",
    "removed": lambda content: None,
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Without the log lines of Orbax."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def flipped_bits(folder: Path, count: int, seed: int) -> Iterator[tuple[Path, bytes]]:
    """Yields `count` times a file with content below a folder, and its content with one other bit."""
    files, rng = [path for path in files_of(folder) if path.stat().st_size], np.random.default_rng(seed)
    for number in range(count):
        file = files[number % len(files)]
        content = bytearray(file.read_bytes())
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        yield file, bytes(content)


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def damaged(file: Path, content: bytes | None) -> Iterator[None]:
    """The file has this content, or is missing, until the end of the block. It stays the same file."""
    whole = file.read_bytes()
    if content is None:
        file.unlink()
    else:
        with file.open("r+b") as opened:
            opened.write(content)
            opened.truncate(len(content))
    try:
        yield
    finally:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(whole)


class Run:
    """A workdir with checkpoints that differ in every number, and a function that judges a loaded state."""

    def __init__(self, workdir: Path, config: Config, steps: tuple[int, ...] = (1, 2), seed: int = 0) -> None:
        self.workdir, self.folder = workdir, (workdir / "checkpoints").resolve()
        self.kind = "features" if config.uses_coreset else "networks"
        state = filled_state(config) if config.uses_coreset else create_state(config)
        self.expected: dict[int, bytes] = {}
        with closing(checkpoint.Checkpoints(workdir, create=True)) as checkpoints:
            for step in steps:
                changed = jax.tree.map(lambda leaf, by=step + 100 * seed: leaf + leaf.dtype.type(by), state)
                changed = changed.replace(step=np.int32(step))
                checkpoints.save(changed, config, replace(CALIBRATION, heat_peak=float(step + 100 * seed)))
        for step in steps:  # what a sound checkpoint gives
            with closing(checkpoint.Checkpoints(workdir)) as checkpoints:
                self.expected[step] = as_bytes(checkpoints._restore(step))

    def judge(self, tally: Tally, fault: str, newest: int = 2, before: int = 1) -> None:
        """Loads with a fault in the newest checkpoint: it is loaded or, with a line, the one before."""
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                found = as_bytes(checkpoint.load(self.workdir))
        except UserError as error:
            tally.lost(f"{fault}: {error}"[:200])
            return
        if found == self.expected[newest]:
            tally.right()
        elif found == self.expected[before]:
            if f"warning: checkpoint {self.folder / str(newest)} " in said.getvalue():
                tally.right()
            else:
                tally.wrong(f"{fault}: the one before, and nothing is said")
        else:
            tally.wrong(f"{fault}: another state, configuration or calibration is loaded")


def as_bytes(loaded: tuple[Any, Any, Any]) -> bytes:
    """State, configuration and calibration, to the bit."""
    state, config, calibration = loaded
    arrays = [f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes() for leaf in jax.tree.leaves(state)]
    return b"".join([*arrays, repr(config).encode(), repr(calibration).encode()])


def place_of(file: Path, folder: Path) -> str:
    """A file by its folder, since Orbax gives random names to files of data."""
    name = file.name if len(file.name) < 32 else "data"
    return str(file.relative_to(folder).with_name(name))


@pytest.fixture(params=["features", "networks"])
def run(request: Any, tmp_path: Path) -> Run:
    return Run(tmp_path, tiny_feature_config() if request.param == "features" else tiny_config())


def finish(tally: Tally) -> None:
    tally.print()
    assert tally.is_clean


def test_single_bits_of_a_checkpoint(run: Run) -> None:
    tally = Tally(f"checkpoint of {run.kind}, one bit")
    count = 800 if run.kind == "features" else 200  # to load networks takes longer
    for file, content in flipped_bits(run.folder / "2", scaled(count), seed=1):
        with damaged(file, content):
            run.judge(tally, place_of(file, run.folder))
    finish(tally)


def test_whole_files_of_a_checkpoint(run: Run) -> None:
    tally = Tally(f"checkpoint of {run.kind}, whole files")
    for file in files_of(run.folder / "2"):
        for way, change in WAYS.items():
            with damaged(file, change(file.read_bytes())):
                run.judge(tally, f"{place_of(file, run.folder)} {way}")
    finish(tally)


def test_parts_of_other_checkpoints(tmp_path: Path) -> None:
    """Folders of two steps are swapped, and a part of another seed takes the place of one."""
    tally, config = Tally("checkpoint, parts of another"), tiny_feature_config()
    run, other = Run(tmp_path / "one", config, (1, 2, 3)), Run(tmp_path / "two", config, (1, 2, 3), seed=1)
    for part in ("", "state", "about"):
        first, second, kept = run.folder / "3" / part, run.folder / "2" / part, run.folder.with_name("kept")
        for _ in range(2):  # and back
            first.rename(kept)
            second.rename(first)
            kept.rename(second)
            run.judge(tally, f"{part or 'step'} swapped", newest=3)
    for part in ("state", "about"):
        mine, theirs, kept = run.folder / "3" / part, other.folder / "3" / part, run.folder.with_name("kept")
        mine.rename(kept)
        shutil.copytree(theirs, mine)
        run.judge(tally, f"{part} of another seed", newest=3, before=2)
        shutil.rmtree(mine)
        kept.rename(mine)
    finish(tally)


@pytest.mark.parametrize("make", [tiny_feature_config, tiny_config])
def test_leaves_that_are_not_finite(tmp_path: Path, make: Callable[[], Config]) -> None:
    """Each leaf in turn: nothing is saved, and the message names the leaf."""
    config = make()
    state = filled_state(config) if config.uses_coreset else create_state(config)
    pairs, structure = jax.tree.flatten_with_path(state)
    kind = "features" if config.uses_coreset else "networks"
    rng, tally = np.random.default_rng(2), Tally(f"state of {kind}, NaN or infinite")
    with closing(checkpoint.Checkpoints(tmp_path, create=True)) as checkpoints:
        for index, (path, leaf) in enumerate(pairs):
            if leaf.dtype.kind != "f":
                continue
            bad = np.array(leaf)
            bad.reshape(-1)[rng.integers(bad.size)] = rng.choice([np.nan, np.inf, -np.inf])
            leaves = [bad if i == index else other for i, (_, other) in enumerate(pairs)]
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            broken = jax.tree.unflatten(structure, leaves).replace(step=np.int32(index + 1))
            try:
                checkpoints.save(broken, config, CALIBRATION)
                tally.wrong("a state that is not finite is saved")
            except UserError as error:
                if f"{name} is not finite" in str(error):
                    tally.right()
                else:
                    tally.wrong(f"{name} is not named: {error}")
    finish(tally)


class Cached:
    """A filled entry of the cache, and a function that judges the images loaded from it."""

    def __init__(self, folder: Path) -> None:
        self.config = Config()
        self.config.data.source, self.config.data.protocol = "folder", "inspection"
        self.config.data.cache_dir, self.config.data.path = str(folder), str(folder / "set")
        self.config.data.height = self.config.data.width = 16
        self.expected = self._load()
        (self.entry,) = folder.iterdir()

    def _load(self) -> str:
        """All that an entry gives, as another process would load it."""
        cache._verified.clear()
        found = cache.load_decoded(source(), self.config.data)
        arrays = [np.asarray(found.images).tobytes().hex(), np.asarray(found.masks).tobytes().hex()]
        return repr((arrays, replace(found, images=np.zeros(0), masks=None)))

    def judge(self, tally: Tally, fault: str) -> None:
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                found = self._load()
        except Exception as error:  # after any error, the user gets no images
            tally.lost(f"{fault}: {type(error).__name__} {error}"[:200])
            return
        if found == self.expected and said.getvalue().count("\n") <= 1:
            tally.right()
        else:
            tally.wrong(f"{fault}: other images" if found != self.expected else f"{fault}: more than a line")


def test_single_bits_of_the_cache(tmp_path: Path) -> None:
    cached, tally = Cached(tmp_path), Tally("cache, one bit")
    for file, content in flipped_bits(cached.entry, scaled(1000), seed=3):
        with damaged(file, content):
            cached.judge(tally, file.name)
    finish(tally)


def test_whole_files_of_the_cache(tmp_path: Path) -> None:
    cached, tally = Cached(tmp_path), Tally("cache, whole files")
    for name in [file.name for file in files_of(cached.entry)]:
        for way, change in WAYS.items():
            file = cached.entry / name
            with damaged(file, change(file.read_bytes())):
                cached.judge(tally, f"{name} {way}")
    finish(tally)
