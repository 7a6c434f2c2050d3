"""A run of twelve steps of tiny networks, as commands that start in a moment."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from daad_jax.training import checkpoint
from tests.faults import child_commands
from tests.faults.child_commands import Child, Fault

STEPS = 12
OPTIONS = (
    "--config.data.height=16", "--config.data.width=16", "--config.model.levels=2",
    "--config.model.skips=(True,)", "--config.model.base_width=4", "--config.model.discriminator_width=4",
    "--config.model.memory_items=(3,3)", "--config.model.division=((1,1,1),(2,2,1))",
    f"--config.train.steps={STEPS}", "--config.train.batch_size=4", "--config.train.checkpoint_every=4",
    "--config.train.log_every=2",
)  # fmt: skip
LEFTOVERS = (".filling*", ".*.partial*", ".*.complete", "*tmp*", ".*.[0-9]*")


def training_options(images: Path, workdir: Path) -> list[str]:
    return [f"--config=folder:{images},daad_plus,smoke", f"--workdir={workdir}", *OPTIONS]


@dataclass(frozen=True)
class Place:
    """A folder for one try, with the workdir `run`, the image cache `cache`, and the output of commands."""

    folder: Path
    images: Path

    @property
    def workdir(self) -> Path:
        return self.folder / "run"

    def start(
        self,
        program: str,
        *words: object,
        number: int = 0,
        kind: str = "kill",
        outputs: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> Child:
        """Starts a command of this workdir.

        Args:
            program: the script.
            words: its options; none: those of `default_words`.
            number: of the call that changes files at which a fault happens; 0: none.
            kind: of the fault.
            outputs: the folder for the output, if it cannot be beside this place.
            environment: what else is changed of the environment.
        """
        outputs = outputs or self.folder.with_name(f"{self.folder.name}-outputs")
        for folder in (outputs, self.folder):
            folder.mkdir(parents=True, exist_ok=True)
        return child_commands.start(
            outputs / f"{len(list(outputs.iterdir()))}",
            program,
            words or self.default_words(program),
            {"DAAD_CACHE_DIR": str(self.folder / "cache")} | (environment or {}),
            Fault(self.folder, kind, number),
        )

    def default_words(self, program: str) -> list[str]:
        if program == "train.py":
            return training_options(self.images, self.workdir)
        further = {"predict.py": [str(self.images / "test")], "export.py": ["--formats=stablehlo"]}
        return [f"--workdir={self.workdir}", *further.get(program, [])]

    def age(self) -> None:
        """Makes all files old, as if the next command came much later."""
        for path in [self.folder, *self.folder.rglob("*")]:
            os.utime(path, (1, 1), follow_symlinks=False)

    def leftovers(self) -> list[str]:
        """What killed commands have left, and a later command should have removed."""
        return sorted(
            {str(path.relative_to(self.folder)) for p in LEFTOVERS for path in self.folder.rglob(p)}
        )

    def logged_steps(self) -> list[int]:
        lines = (self.workdir / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["step"] for line in lines]

    def copy(self, folder: Path) -> "Place":
        shutil.copytree(self.folder, folder)
        return Place(folder, self.images)


def leaves(workdir: Path) -> list[np.ndarray]:
    """All arrays of the newest checkpoint."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(checkpoint.load(workdir)[0])]


def have_same_bits(workdir: Path, expected: list[np.ndarray]) -> bool:
    found = leaves(workdir)
    return len(found) == len(expected) and all(a.tobytes() == b.tobytes() for a, b in zip(found, expected))
