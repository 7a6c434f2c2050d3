"""The log of a run: progress on the terminal, metrics as JSON lines, TensorBoard events."""

import json
import sys
import time
from pathlib import Path
from typing import Protocol

from tensorboardX import SummaryWriter
from tqdm import tqdm

from daad_jax import files
from daad_jax.terminal import say


class RunLog(Protocol):
    """What the training loop asks of a log."""

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
    """The log of the first process, from `first_step` on. Lines of later steps, which an interrupted run has
    left, are dropped."""

    def __init__(self, workdir: Path, first_step: int, steps: int, batch_size: int) -> None:
        self._path = workdir / "metrics.jsonl"
        self._steps, self._batch_size = steps, batch_size
        if self._path.is_file():
            kept = [line for line in self._path.read_text().splitlines() if _step(line) <= first_step]
            files.write_text(self._path, "".join(f"{line}\n" for line in kept))
        self._file = self._path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=first_step + 1)
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
        self._file.write(json.dumps({"step": step, **metrics, "images_per_s": rate}) + "\n")
        self._file.flush()
        for key, value in metrics.items():
            self._events.add_scalar(key, value, step)
        self._events.add_scalar("images_per_s", rate, step)
        names = ("reconstruction", "adversarial", "alignment", "discriminator")
        shown = {n: f"{metrics[n]:.4f}" for n in names if n in metrics}
        if self._bar.disable:
            text = "  ".join(f"{n} {v}" for n, v in shown.items())
            say(f"step {step}/{self._steps}  {text}  {rate:.0f} images/s  {self._time_left(step)} left")
        else:
            self._bar.set_postfix({**shown, "images/s": f"{rate:.0f}"}, refresh=False)
            self._bar.update(step - self._bar.n)
        self._since, self._done = now, step

    def _time_left(self, step: int) -> str:
        """The time left, by the pace of all intervals except the first, which includes the compilation."""
        steps, seconds = map(sum, zip(*(self._intervals[1:] or self._intervals)))
        return tqdm.format_interval((self._steps - step) * seconds / steps)

    def pause(self) -> None:
        self._paused = time.perf_counter()

    def resume(self) -> None:
        self._since += time.perf_counter() - self._paused

    def say(self, text: str) -> None:
        say(text)

    def close(self) -> None:
        self._bar.close()
        self._file.close()
        self._events.close()


def _step(line: str) -> float:
    """The step of a line; infinite for a line that a kill cut short, so that the line is dropped."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
