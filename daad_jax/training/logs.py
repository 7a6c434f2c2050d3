"""The log of a run: progress on the terminal, metrics as JSON lines, TensorBoard events."""

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TextIO

from tensorboardX import SummaryWriter
from tqdm import tqdm

from daad_jax import files
from daad_jax.buckets import is_in_bucket, read_bytes
from daad_jax.terminal import format_rate, say, warn
from daad_jax.uploads import Mirror

METRICS_FILE = "metrics.jsonl"  # in the workdir


class RunLog(Protocol):
    """The functions that the training loop calls."""

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Logs the mean metrics of the steps since the last call, up to `step`."""

    def pause(self) -> None:
        """Stops the clock of `images_per_s` until `resume`."""

    def resume(self) -> None:
        """Ends a `pause`."""

    def say(self, text: str) -> None:
        """Prints a line beside the progress bar."""

    def close(self) -> None:
        """Writes the rest, and closes the files."""


class SilentLog:
    """The log of every process except the first: it writes nothing."""

    def write(self, step: int, metrics: dict[str, float]) -> None:
        pass

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


class FileLog:
    """The log of the first process, from `first_step` on.

    Lines of later steps, which an interrupted run has left, are removed. In a bucket, the files are updated
    at every checkpoint and in between.
    """

    def __init__(self, workdir: Path, first_step: int, steps: int, batch_size: int) -> None:
        self._mirror = Mirror(workdir)
        self._path = self._mirror.local / METRICS_FILE
        self._steps, self._batch_size = steps, batch_size
        self._file: TextIO | None = None
        self._events: SummaryWriter | None = None
        self._has_failed = False
        with self._no_matter_of_training():
            if is_in_bucket(workdir) and (workdir / METRICS_FILE).exists():
                self._path.write_bytes(read_bytes(workdir / METRICS_FILE))
            _keep_lines(self._path, first_step)
            self._file = self._path.open("a", encoding="utf-8")
            self._events = SummaryWriter(str(self._mirror.local / "tensorboard"), purge_step=first_step + 1)
        self._bar = tqdm(
            total=steps, initial=first_step, unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True
        )
        self._since, self._done = time.perf_counter(), first_step
        self._intervals: list[tuple[int, float]] = []  # (steps, seconds) between two lines

    def write(self, step: int, metrics: dict[str, float]) -> None:
        now = time.perf_counter()
        steps, seconds = step - self._done, max(now - self._since, 1e-9)
        self._intervals.append((steps, seconds))
        rate = steps * self._batch_size / seconds
        values = {**metrics, "images_per_s": rate}
        with self._no_matter_of_training():
            if self._file:
                self._file.write(json.dumps({"step": step, **values}) + "\n")
                self._file.flush()
            if self._events:
                for key, value in values.items():
                    self._events.add_scalar(key, value, step)
            self._mirror.sync_if_due()
        names = ("reconstruction", "adversarial", "alignment", "discriminator")
        shown = {n: f"{metrics[n]:.4f}" for n in names if n in metrics}
        if self._bar.disable:
            text = "  ".join(f"{n} {v}" for n, v in shown.items())
            say(
                f"step {step}/{self._steps}  {text}  {format_rate(rate)} images/s  "
                f"{self._time_left(step)} left"
            )
        else:
            self._bar.set_postfix({**shown, "images/s": format_rate(rate)}, refresh=False)
            self._bar.update(step - self._bar.n)
        self._since, self._done = now, step

    def _time_left(self, step: int) -> str:
        """The time left, by the pace of all intervals except the first, which includes the compilation."""
        steps, seconds = map(sum, zip(*(self._intervals[1:] or self._intervals)))
        return tqdm.format_interval((self._steps - step) * seconds / steps)

    def pause(self) -> None:
        self._paused = time.perf_counter()

    def resume(self) -> None:
        with self._no_matter_of_training():
            if self._events:
                self._events.flush()
            self._mirror.sync()
        self._since += time.perf_counter() - self._paused

    def say(self, text: str) -> None:
        say(text)

    def close(self) -> None:
        self._bar.close()
        for file in (self._file, self._events):
            with self._no_matter_of_training():
                if file:
                    file.close()
        with self._no_matter_of_training():
            self._mirror.sync()
        self._mirror.remove()

    @contextmanager
    def _no_matter_of_training(self) -> Iterator[None]:
        """Wraps a block that writes the log. If the system refuses, a line says so, and the log ends."""
        try:
            yield
        except OSError as error:
            if not self._has_failed:
                warn(f"{self._path}: the log ends here ({error.strerror or error}); the training goes on")
            self._file, self._events, self._has_failed = None, None, True


def _keep_lines(path: Path, first_step: int) -> None:
    """Removes the lines of later steps from a log, and lines that are damaged; a line says how many.

    A last line that a kill has cut is removed without a message.
    """
    if not path.is_file():
        return
    content = path.read_bytes()
    lines = content.splitlines()
    steps = [_step(line) for line in lines]
    whole = steps if content.endswith(b"\n") else steps[:-1]
    if damaged := whole.count(None):
        warn(f"{path}: {damaged} line(s) of this log are damaged and were removed")
    kept = [line for line, step in zip(lines, steps) if step is not None and step <= first_step]
    files.write_text(path, "".join(f"{line.decode()}\n" for line in kept))


def _step(line: bytes) -> float | None:
    """The step of a line; None if the line is damaged."""
    try:
        step = json.loads(line.decode())["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if type(step) in (int, float) and math.isfinite(step) else None
