"""Malformed images, options, recipes, tables, arrays and files of a run: a line, never a traceback."""

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from daad_jax import cli, commands
from daad_jax import config as config_lib
from daad_jax.data import groups
from daad_jax.data.decoding import decode
from daad_jax.errors import UserError
from daad_jax.escaping import for_terminal
from daad_jax.method.state import abstract_state
from daad_jax.training import loop, run_data, workdir
from tests.faults.child_commands import FORKS
from tests.faults.damage import damage, make_files
from tests.faults.small_run import Place, training_options
from tests.faults.tally import Tally, scaled
from tests.faults.test_kills import finish
from tests.faults.test_kills import finished as finished

pytestmark = pytest.mark.slow
MAX_PIXELS = 10**6
ODD_WORDS = (
    "", "nan", "inf", "-inf", "-1", "0", "1", "2", "1e308", "1e-320", "9" * 400, "()", "((", "(1,)", "(0,0)",
    "((1,1,1),(2,2,1))", "(True,)", "None", "True", "abc", "l2", "coreset", "0x10", "1_0", "[]", "{}", "'",
    "\0", "\ud800", "efficientnet_lite0", "(1,(2,),'a')", "((1,),(2,))", "1.5", "-0.0", "99999999999", "../x",
)  # fmt: skip


def test_damaged_images(capsys: pytest.CaptureFixture[str]) -> None:
    """Each is a picture of bounded size, or a line that names it. Decoders of C may not crash."""
    tally = Tally("images, damaged")
    pool = ProcessPoolExecutor(1, FORKS)
    for seed in range(scaled(3000)):
        try:
            problem = pool.submit(judge_image, seed).result(timeout=60)
        except BrokenProcessPool:
            problem, pool = "lost: the process crashed", ProcessPoolExecutor(1, FORKS)
        except TimeoutError:
            problem = "lost: more than a minute"
        name, _, why = problem.partition(": ")
        getattr(tally, name)(*[f"seed {seed}: {why}"] * bool(why))
    pool.shutdown()
    finish(tally, capsys)


def judge_image(seed: int) -> str:
    files, rng = make_files(), np.random.default_rng(seed)
    kind = list(files)[seed % len(files)]
    content, ways = damage(files[kind], rng)
    try:
        picture = decode(content, "image", max_pixels=MAX_PIXELS)
    except UserError as error:
        return "right" if str(error).startswith("image: ") else f"wrong: {kind}, {ways}: {error}"
    except BaseException as error:
        return f"wrong: {kind}, {ways}: {type(error).__name__} {error}"
    height, width = picture.shape[:2] if isinstance(picture, np.ndarray) else picture.size[::-1]
    return "right" if 0 < height * width <= MAX_PIXELS else f"wrong: {kind}, {ways}: {height} x {width}"


def test_a_folder_of_damaged_images(
    tmp_path: Path, finished: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """predict names each image that it cannot read in one line, and scores the others."""
    tally, images, rng = Tally("predict, damaged images"), tmp_path / "images", np.random.default_rng(1)
    images.mkdir()
    files = list(make_files().items())
    for number in range(scaled(300)):
        kind, content = files[number % len(files)]
        suffix = {"JPEG2000": "jp2"}.get(kind.split()[0], kind.split()[0].lower())
        name = f"{number}.{suffix}"
        (images / name).write_bytes(damage(content, rng)[0] or b"0")
    place = finished.copy(tmp_path / "place")
    code, _, err = place.start("predict.py", f"--workdir={place.workdir}", images).wait()
    lines = (place.workdir / "predictions" / "scores.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert code == 0, err
    # A page of a TIFF file has a row of its own, with "#" and the number of the page behind the name.
    assert {Path(row["name"].partition("#")[0]) for row in rows} == set(images.iterdir()), err
    for row in rows:
        told = err.count(f"warning: {row['name']}")
        if told == (row["verdict"] == "unreadable"):
            tally.right()
        else:
            tally.wrong(f"{row['name']} is {row['verdict']}, and has {told} lines")
    unexpected = [line for line in err.splitlines() if not line.startswith("warning: ")]
    if unexpected:
        tally.wrong(f"other lines: {unexpected[:3]}")
    finish(tally, capsys)


@contextlib.contextmanager
def ended(tally: Tally, fault: str) -> Iterator[None]:
    """For a command in this process that must end in one line with exit status 2, or be accepted."""
    err, out = io.StringIO(), io.StringIO()
    code: Any = 0
    try:
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
            yield
    except SystemExit as error:
        code = error.code
    except BaseException as error:
        tally.wrong(f"{fault}: {type(error).__name__} {error}")
        return
    lines = [line for line in err.getvalue().splitlines() if not line.startswith("warning: ")]
    if code == 2 and len(lines) == 1 and lines[0].startswith("train.py: error: "):
        tally.right()
    else:
        tally.wrong(f"{fault}: exit status {code}: {err.getvalue()}")


@pytest.fixture
def accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training ends where it would claim its workdir."""

    def claim(workdir: Path, config: config_lib.Config) -> None:
        abstract_state(config)
        raise UserError("accepted")

    monkeypatch.setattr(loop, "claim_workdir", claim)
    monkeypatch.setattr(cli.startup, "quiet_libraries", lambda: None)


def examples(
    tally_name: str, strategy: st.SearchStrategy[Any], count: int, judge: Callable[..., None]
) -> Tally:
    """Judges `count` examples of a strategy, always the same ones."""
    tally = Tally(tally_name)

    @hypothesis.settings(
        max_examples=count, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(strategy)
    def run(example: Any) -> None:
        judge(tally, example)

    run()
    return tally


KEYS = tuple(config_lib.all_keys())
VALUES = st.one_of(
    st.sampled_from(ODD_WORDS), st.text(max_size=12), st.integers().map(str), st.floats().map(repr)
)


def test_values_of_recipes(tmp_path: Path, accepted: None, capsys: pytest.CaptureFixture[str]) -> None:
    def judge(tally: Tally, values: dict[str, str]) -> None:
        words = [f"--config.{key}={value}" for key, value in values.items()]
        with ended(tally, str(values)):
            cli.run(
                commands.COMMANDS["train"], "train.py", ["--config=mnist", f"--workdir={tmp_path}", *words]
            )

    strategy = st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=3)
    finish(examples("values of recipes", strategy, scaled(1000), judge), capsys)


def test_words_of_commands(tmp_path: Path, accepted: None, capsys: pytest.CaptureFixture[str]) -> None:
    options = (
        "--config",
        "--workdir",
        "--coordinator",
        "--num_processes",
        "--process_id",
        "--distributed",
        "--x",
        "-",
        "--",
    )
    word = st.one_of(
        st.sampled_from(options), st.builds("=".join, st.tuples(st.sampled_from(options), VALUES)), VALUES
    )

    def judge(tally: Tally, words: list[str]) -> None:
        if {"-h", "--help"} & set(words):
            return
        with ended(tally, str(words)):
            cli.run(commands.COMMANDS["train"], "train.py", words)

    with contextlib.chdir(tmp_path):
        tally = examples("words of train", st.lists(word, max_size=5), scaled(1000), judge)
    finish(tally, capsys)


def test_tables_of_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table is a mapping, or a line that names the file."""
    table = tmp_path / "table.csv"
    cell = st.sampled_from(
        ["part", "name", "a.png", '"', ",", ";", "\n", "\r", "\0", "é", "\ufeff", " ", "="]
    )
    strategy = st.one_of(st.binary(max_size=80), st.lists(cell, max_size=30).map("".join).map(str.encode))

    def judge(tally: Tally, content: bytes) -> None:
        table.write_bytes(content)
        try:
            groups._open_table("table.csv:part", table, "part")
        except UserError as error:
            line = for_terminal(str(error))
            tally.right() if str(table) in line and "\n" not in line else tally.wrong(f"{content!r}: {line}")
        except Exception as error:
            tally.wrong(f"{content!r}: {type(error).__name__} {error}")
        else:
            tally.right()

    finish(examples("tables of groups", strategy, scaled(1000), judge), capsys)


ARRAYS = (
    np.zeros((0, 4, 3)), np.zeros((4, 0)), np.zeros(4), np.zeros(()), np.zeros((2, 2, 2, 2, 2)),
    np.full((4, 4), np.nan), np.full((4, 4), np.inf), np.zeros((4, 4), complex), np.zeros((4, 4), object),
    np.zeros((4, 4), "U3"), np.zeros((4, 4), bool), np.zeros((4, 4), "M8[s]"), np.zeros((4, 4, 2)),
    np.zeros((4, 4, 5)), np.zeros((4, 4), [("a", "i4")]), np.zeros((4, 4), "f2"), np.zeros((4, 4), ">u2"),
    np.zeros((4, 4), np.uint64), np.zeros((4, 4, 3), np.int64)[::-1, ::2], np.full((4, 4), -1e30),
    np.broadcast_to(np.uint8(1), (5000, 4000)), np.zeros((4, 4), "V3"), np.ma.masked_all((4, 4)),
)  # fmt: skip


def test_arrays(finished: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """What a program gives instead of a file: prepared pixels, or a line that names the image."""
    from daad_jax.detection.detector import Detector

    tally, detector = Tally("arrays and other values"), Detector.load(finished.workdir)
    detector.config.data.max_pixels = MAX_PIXELS
    others = (
        "",
        "\0",
        "no/such",
        b"",
        b"no image",
        None,
        3,
        3.5,
        [],
        [[1, 2]],
        {},
        object(),
        Path("/dev/zero"),
    )
    for value in (*ARRAYS, *others):
        shown = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else repr(value)
        try:
            prepared = detector.prepare(value, "thing")  # type: ignore[arg-type]
        except UserError:
            tally.right()
        except BaseException as error:
            tally.wrong(f"{shown}: {type(error).__name__} {error}")
        else:
            is_good = prepared.dtype == np.uint8 and prepared.shape == (16, 16, 3)
            tally.right() if is_good else tally.wrong(f"{shown}: {prepared.dtype} {prepared.shape}")
    finish(tally, capsys)


@pytest.mark.parametrize("name", ["config.json", "data.json"])
def test_files_of_a_run(
    tmp_path: Path, finished: Place, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged file is refused in a line, or means what it meant."""
    tally, place = Tally(f"{name}, damaged"), finished.copy(tmp_path / "place")
    file = place.workdir / name
    content = file.read_bytes()
    read: Callable[[], Any] = {
        "config.json": lambda: workdir._read_config(file),
        "data.json": lambda: run_data.read(place.workdir),
    }[name]
    whole, rng = repr(read()), np.random.default_rng(4)
    for _ in range(scaled(1000)):
        damaged, ways = damage(content, rng)
        file.write_bytes(damaged)
        try:
            found = repr(read())
        except UserError as error:
            is_line = str(file) in str(error) and "\n" not in str(error)
            tally.right() if is_line else tally.wrong(f"{ways}: {error}")
        except Exception as error:
            tally.wrong(f"{ways}: {type(error).__name__} {error}")
        else:
            tally.right() if found == whole else tally.wrong("another content is read, and nothing is said")
    finish(tally, capsys)


def test_training_with_a_malformed_table(
    tmp_path: Path, striped_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way of an option to its line."""
    tally, table = Tally("train, malformed tables"), tmp_path / "table.csv"
    contents = (
        b"",
        b"\xff\xfe",
        b"name\n",
        b"name,part\n",
        b"name,part\na",
        b"\0",
        b'name,part\n"a,b\n',
        b"a" * 10**6,
    )
    for content in contents:
        table.write_bytes(content)
        words = training_options(striped_images, tmp_path / "run")
        with ended(tally, str(content[:20])):
            cli.run(commands.COMMANDS["train"], "train.py", [*words, f"--config.data.group={table}:part"])
    assert not os.path.exists(tmp_path / "run" / "checkpoints")
    finish(tally, capsys)
