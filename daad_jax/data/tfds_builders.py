"""Our TFDS builders for solar cells and MVTec AD. They prepare their data without TensorFlow."""

import csv
import importlib.resources
import importlib.util
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from daad_jax.config import DataConfig
from daad_jax.data.catalogue import DATA_SETS
from daad_jax.data.decoding import decode
from daad_jax.data.folder_source import open_folder
from daad_jax.data.images import to_pixels
from daad_jax.data.samples import GOOD, TEST, TRAIN, Sample
from daad_jax.errors import UserError

LABELS = ["normal", "anomalous"]
TEST_STRIDE = 5  # after a seeded shuffle, every fifth normal cell is for testing
NORMAL_BELOW, DEFECTIVE_ABOVE = 0.01, 0.99  # defect probabilities; cells in between are left out
ElpvRow = tuple[str, float, str]  # path, defect probability and type ("mono" or "poly") of a cell


class SolarCells(tfds.core.GeneratorBasedBuilder):
    """Electroluminescence images of solar cells, 300 x 300 (package `elpv-dataset`).

    Cells of defect probability 0 are normal: most are for training, the others for testing. Cells of
    probability 1 are anomalous, and for testing. Uncertain cells (1/3 and 2/3) are left out.
    """

    name = "solar_cells"
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name=n, description=f"{n}crystalline cells") for n in DATA_SETS[name].parts
    ]

    def _info(self) -> Any:
        return self.dataset_info_from_configs(description=self.__doc__, features=_features(1, mask=False))

    def _split_generators(self, dl_manager: Any) -> Any:
        root, rows = _read_elpv_table()
        builder_config: Any = self.builder_config
        cells = [row for row in rows if builder_config.name in ("all", row[2])]
        normal = [row for row in cells if row[1] < NORMAL_BELOW]
        defective = [row for row in cells if row[1] > DEFECTIVE_ABOVE]
        order = np.random.default_rng(0).permutation(len(normal))
        test = order[::TEST_STRIDE]
        train = set(order) - set(test)
        normal_test = _cell_examples(root, [normal[i] for i in sorted(test)], 0)
        return {
            "train": _cell_examples(root, [normal[i] for i in sorted(train)], 0),
            "test": itertools.chain(normal_test, _cell_examples(root, defective, 1)),
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
        samples = open_folder(root, DataConfig()).read().samples
        return {part: _mvtec_examples([s for s in samples if s.part == part]) for part in (TRAIN, TEST)}

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


def _cell_examples(root: Path, rows: list[ElpvRow], label: int) -> Iterator[Any]:
    """Yields (key, example) for every cell."""
    for path, _, cell_type in rows:
        kind = f"defective {cell_type}" if label else GOOD
        # TFDS needs TensorFlow to encode arrays, but not to encode Pillow's images.
        image = Image.fromarray(to_pixels(decode(root / path), 1)[..., 0])
        yield path, {"image": image, "label": label, "kind": kind, "name": path}


def _mvtec_examples(samples: list[Sample]) -> Iterator[Any]:
    """Yields (key, example) for every sample; the mask of a normal image is empty."""
    for sample in samples:
        image = to_pixels(sample.load()[0], 3)
        mask = sample.load_mask()[0] if sample.load_mask else np.zeros(image.shape[:2], np.uint8)
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


def _read_elpv_table() -> tuple[Path, list[ElpvRow]]:
    """Reads the table of the package `elpv-dataset`.

    Returns:
        The folder at which the paths of the table begin, and a row for every cell.

    Raises:
        UserError: the package is not installed.
    """
    if importlib.util.find_spec("elpv_dataset") is None:
        raise UserError(
            "solar_cells: the package that contains the images is not installed; run pip install "
            "elpv-dataset (the images are licensed CC BY-NC-SA 4.0, for non-commercial use)"
        )
    package = Path(str(importlib.resources.files("elpv_dataset")))
    table = next(iter(sorted(package.rglob("labels.csv"))))
    rows = csv.reader(table.read_text().splitlines(), delimiter=" ", skipinitialspace=True)
    return table.parent, [(row[0], float(row[1]), row[2]) for row in rows if len(row) >= 3]
