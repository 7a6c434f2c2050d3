"""Whatever goes wrong, a command ends in one line and an exit status; --debug shows where it went wrong."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from daad_jax import cli, commands
from daad_jax.endings import errors_in_one_line
from daad_jax.errors import Stopped, UserError, describe_os_error


def end_of(capsys, error, debug=False):
    """(exit status, standard error) of a command that raises `error`."""
    with pytest.raises(SystemExit) as ended, errors_in_one_line("command", debug):
        raise error
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (UserError("a.png: no image"), 2, "error: a.png: no image"),
        (UserError("evil\x1b[31m\r\nname"), 2, r"error: evil\x1b[31m name"),
        (
            MemoryError("Unable to allocate 698. TiB"),
            2,
            "error: out of memory (Unable to allocate 698. TiB); try",
        ),
        (
            RuntimeError("RESOURCE_EXHAUSTED: no room"),
            2,
            "error: out of memory (RESOURCE_EXHAUSTED: no room)",
        ),
        (OSError(errno.ENOSPC, "No space", "/x/a"), 2, "error: /x/a: No space; make room on that disk"),
        (OSError(errno.ENAMETOOLONG, "Too long", "aaa"), 2, "error: aaa: Too long; give a shorter name"),
        (OSError("strange"), 2, "error: strange; look at this file or device"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Stopped(signal.SIGTERM), 143, "stopped by SIGTERM"),
    ],
)
def test_an_error_is_one_line(capsys, error, status, says):
    code, err = end_of(capsys, error)
    assert code == status
    assert err.startswith(f"command: {says}")
    assert len(err.splitlines()) == 1


def test_a_mistake_of_ours_is_one_line_with_its_place(capsys):
    code, err = end_of(capsys, KeyError("weights"))
    assert code == 1
    assert err.startswith("command: error: unexpected KeyError: 'weights' (test_endings.py, line ")
    assert err.endswith("this is a mistake of ours: report it with what --debug prints\n")
    code, err = end_of(capsys, KeyError("weights"), debug=True)
    assert code == 1
    assert err.startswith("Traceback (most recent call last):\n")
    assert err.splitlines()[-1].startswith("command: error: unexpected KeyError")


def test_a_refusal_without_a_file_has_a_remedy():
    for code in (errno.EDQUOT, errno.EMFILE, errno.EROFS, errno.EACCES):
        line = describe_os_error(OSError(code, os.strerror(code), "/x"))
        assert line.startswith(f"/x: {os.strerror(code)}; ")
        assert len(line.split("; ")[1]) > 10


def run(monkeypatch, capsys, *words):
    """(exit status, standard error) of `daad-jax WORDS`, in this process."""
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook
    monkeypatch.setattr(sys, "argv", ["daad-jax", *words])
    try:
        commands.main()
        code = 0
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.excepthook, sys.unraisablehook, threading.excepthook = hooks
    return code, capsys.readouterr().err


ROOT = Path(__file__).parents[1]
FOLDER = "--config=folder:/nonexistent,daad_plus"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["train", FOLDER, "--config.data.shift=100000"],
            "config.data.shift = 100000: must be between 0 and 128",
        ),
        (
            ["train", FOLDER, "--config.train.batch_size=1000000000000"],
            "config.train.batch_size = 1000000000000: must be at most 1048576",
        ),
        (
            ["train", FOLDER, "--config.score.batch_size=1000000000000"],
            "config.score.batch_size = 1000000000000: must be between 0",
        ),
        (
            ["train", FOLDER, "--config.name=../../../x"],
            "config.name = '../../../x': names the folder of the run",
        ),
        (["train", FOLDER, "--config.name=.."], "config.name = '..': names the folder of the run"),
        (
            ["train", FOLDER, "--config.model.skips=(True,)", "--config.model.skips=(False,)"],
            "--config.model.skips is given 2 times; give it once, with all values",
        ),
        (
            ["serve", "--workdir=x", "--hosts=a.example", "--hosts", "b.example"],
            "--hosts is given 2 times; give it once, with all values",
        ),
        (
            ["predict", "--workdir=x", "--out=s3://x", "y"],
            "--out=s3://x: must be a folder of a mounted file system",
        ),
        (
            ["evaluate", "--workdir=x", "--out=s3://x"],
            "--out=s3://x: must be a folder of a mounted file system",
        ),
        (["export", "--workdir=x", "--output=s3://x"], "--output=s3://x: must be a folder of a mounted"),
        (["review", "--workdir=x", "--out=gs://b/x", "y"], "gs://b/x: marks cannot be appended in a bucket;"),
        (["serve", "--export=gs://b/x.stablehlo"], "an exported file is served from this machine only; copy"),
        (["compare", "s3://b/x", "y"], "s3://b/x: this kind of address cannot be used;"),
        (["predict", "--workdir=x", "--batch_size=1000000000000", "y"], "[1, 1048576]"),
        (["predict", f"--workdir={'a' * 300}", "/"], "no images"),
        (["evaluate", f"--workdir={'a' * 300}"], "File name too long; give a shorter name"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(monkeypatch, capsys, tmp_path, words, says):
    monkeypatch.chdir(tmp_path)
    if words[-1] == "/":
        words = [*words[:-1], str(tmp_path)]
    code, err = run(monkeypatch, capsys, *words)
    assert code == 2, err
    assert says in err
    assert len(err.splitlines()) == 1, err
    assert list(tmp_path.iterdir()) == []


def test_the_last_of_two_plain_values_counts(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, err = run(monkeypatch, capsys, "train", FOLDER, "--config.seed=-1", "--config.seed=-2")
    assert (code, "config.seed = -2" in err) == (2, True)


def test_every_command_has_the_option_debug(capsys):
    for command in commands.COMMANDS.values():
        assert "--[no]debug: show the messages of the libraries" in cli.help_text(command, "x")


# Sends a signal to its own process as soon as a module is looked for.
SENDS_A_SIGNAL = """
import os, sys

class Sender:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["SIGNAL_AT"] and name not in sys.modules:
            os.kill(os.getpid(), int(os.environ["SIGNAL"]))

sys.meta_path.insert(0, Sender())
"""


SCRIPT, MODULE = ["predict.py"], ["-m", "daad_jax", "predict"]


@pytest.mark.parametrize(
    ("number", "module", "program"),
    [
        (signal.SIGINT, "daad_jax.commands", SCRIPT),
        (signal.SIGINT, "ml_collections", MODULE),
        (signal.SIGINT, "daad_jax.detection", SCRIPT),
        (signal.SIGTERM, "absl.flags", MODULE),
        (signal.SIGTERM, "daad_jax.runtime", SCRIPT),
    ],
)
def test_a_signal_during_the_first_imports_ends_the_command_in_one_line(tmp_path, number, module, program):
    (tmp_path / "sitecustomize.py").write_text(SENDS_A_SIGNAL)
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    environment |= {"PYTHONPATH": str(tmp_path), "SIGNAL_AT": module, "SIGNAL": str(int(number))}
    command = [sys.executable, *program, "--workdir=x", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    name = program[0] if program[0].endswith(".py") else "python -m daad_jax predict"
    how = "interrupted" if number == signal.SIGINT else "stopped by SIGTERM"
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", f"{name}: {how}\n")
