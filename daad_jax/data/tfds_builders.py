"""TFDS builders of ours. Neither needs TensorFlow."""

import csv
import importlib.resources
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from daad_jax.data.catalogue import DATA_SETS
from daad_jax.data.folder_source import open_folder
from daad_jax.data.images import decode
from daad_jax.data.samples import GOOD, Sample
from daad_jax.errors import UserError

LABELS = ["normal", "anomalous"]
HELD_OUT = 5  # every fifth sound cell (after a seeded shuffle) is for testing


class SolarCells(tfds.core.GeneratorBasedBuilder):
    """Electroluminescence images of solar cells, 300 x 300 (package `elpv-dataset`).

    Train: cells of defect probability 0. Test: held-out ones against probability 1. The uncertain
    ones (1/3 and 2/3) are left out.
    """

    name = "solar_cells"
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name=n, description=f"{n}crystalline cells") for n in DATA_SETS[name].parts
    ]

    def _info(self) -> Any:
        return self.dataset_info_from_configs(description=self.__doc__, features=_features(1, mask=False))

    def _split_generators(self, dl_manager: Any) -> Any:
        root, rows = _elpv()
        chosen: Any = self.builder_config
        cells = [r for r in rows if chosen.name in ("all", r[2])]
        sound = [r for r in cells if r[1] < 0.01]
        broken = [r for r in cells if r[1] > 0.99]
        order = np.random.default_rng(0).permutation(len(sound))
        held_out = [sound[i] for i in sorted(order[::HELD_OUT])]
        kept = [sound[i] for i in sorted(set(order) - set(order[::HELD_OUT]))]
        return {
            "train": _cells(root, kept, 0),
            "test": _chain(_cells(root, held_out, 0), _cells(root, broken, 1)),
        }

    def _generate_examples(self, *_: Any) -> Any:
        raise NotImplementedError("the split generators yield the examples")


class MvtecAd(tfds.core.GeneratorBasedBuilder):
    """One category of MVTec AD, with masks, from a copy of the data set in its original layout."""

    name = "mvtec_ad"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "manual_dir is the folder that holds the categories (bottle, ...)."
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name=category, description=category) for category in DATA_SETS[name].parts
    ]

    def _info(self) -> Any:
        return self.dataset_info_from_configs(description=self.__doc__, features=_features(3, mask=True))

    def _split_generators(self, dl_manager: Any) -> Any:
        category: Any = self.builder_config
        root = Path(dl_manager.manual_dir) / category.name
        train, test = open_folder(root, 3, "convert").read()
        return {"train": _parts(train), "test": _parts(test)}

    def _generate_examples(self, *_: Any) -> Any:
        raise NotImplementedError("the split generators yield the examples")


def _features(channels: int, mask: bool) -> Any:
    features = {
        "image": tfds.features.Image(shape=(None, None, channels), encoding_format="png"),
        "label": tfds.features.ClassLabel(names=LABELS),
        "kind": tfds.features.Text(),
        "name": tfds.features.Text(),
    }
    if mask:
        features["mask"] = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
    return tfds.features.FeaturesDict(features)


def _cells(root: Path, rows: list[tuple[str, float, str]], label: int) -> Iterator[Any]:
    for path, _, cell in rows:
        kind = f"defective {cell}" if label else GOOD
        # TFDS encodes arrays with TensorFlow, Pillow images without.
        image = Image.fromarray(decode(root / path, 1)[..., 0])
        yield path, {"image": image, "label": label, "kind": kind, "name": path}


def _parts(samples: list[Sample]) -> Iterator[Any]:
    for sample in samples:
        image = sample.load()
        mask = sample.load_mask() if sample.load_mask else np.zeros(image.shape[:2], np.uint8)
        yield (
            sample.name,
            {
                "image": Image.fromarray(image),
                "label": int(sample.kind != GOOD),
                "kind": sample.kind,
                "name": sample.name,
                "mask": Image.fromarray(255 * mask),
            },
        )


def _chain(*parts: Iterator[Any]) -> Iterator[Any]:
    for part in parts:
        yield from part


def _elpv() -> tuple[Path, list[tuple[str, float, str]]]:
    """The package's folder, and (path, defect probability, cell type) of every image."""
    if importlib.util.find_spec("elpv_dataset") is None:
        raise UserError(
            "solar_cells: the images come in a package that is not installed: pip install "
            "elpv-dataset (its images are CC BY-NC-SA 4.0: non-commercial use)"
        )
    package = Path(str(importlib.resources.files("elpv_dataset")))
    table = next(iter(sorted(package.rglob("labels.csv"))))
    rows = csv.reader(table.read_text().splitlines(), delimiter=" ", skipinitialspace=True)
    return table.parent, [(r[0], float(r[1]), r[2]) for r in rows if len(r) >= 3]
