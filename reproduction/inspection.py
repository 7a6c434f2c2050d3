"""Defines the sets of the tables "inspection" and "dirty": real parts from several sources, with recipes."""

import os
from dataclasses import dataclass
from pathlib import Path

from daad_jax.config import Config, DataConfig
from daad_jax.data.catalogue import DataSet, find_data_set
from daad_jax.data.tfds_source import available_subjects
from daad_jax.errors import UserError
from daad_jax.recipes import load_recipe

FOLDER_VARIABLE = "DAAD_INSPECTION_DIR"  # this variable names the folder with the folders of `PARTS`
LICENSES = "licenses for non-commercial use"


@dataclass(frozen=True)
class Part:
    """One set of images.

    Attributes:
        recipe: the name of the recipe in configs/.
        word: the first word for the recipe, if the set belongs to a data set of the catalogue.
        folder: for the recipe "folder", the folder of the set below $DAAD_INSPECTION_DIR; "" for other
            recipes.
    """

    recipe: str
    word: str = ""
    folder: str = ""


PARTS = {
    "bottle": Part("mvtec_ad", "bottle"),
    "screw": Part("mvtec_ad", "screw"),
    "mono": Part("solar_cells", "mono"),
    "poly": Part("solar_cells", "poly"),
    "tire": Part("folder", folder="mvtec3d_tire"),
    "kolektor": Part("folder", folder="kolektor_sdd"),
    "metal_plate": Part("folder", folder="mpdd_metal_plate"),
}
INSPECTION = DataSet(
    name="inspection",
    title="Inspection",
    noun="part",
    plural="parts",
    default_subject="bottle",
    parts=tuple(PARTS),
    restrictive_license=LICENSES,
)
DIRTY = DataSet(
    name="dirty",
    title="Defects among the training images",
    noun="part",
    plural="parts",
    default_subject="bottle",
    parts=("bottle", "metal_plate", "mono"),
    restrictive_license=LICENSES,
)


def make_config(name: str, variant: str, smoke: bool) -> Config:
    """Makes the configuration of a set and a variant. The set's images need not be on this machine.

    Args:
        name: a key of `PARTS`.
        variant: a key of `VARIANTS`.
        smoke: whether to shrink the configuration, so that a run takes seconds.

    Raises:
        UserError: the recipe does not exist.
    """
    part = PARTS[name]
    words = [part.word, variant, *["smoke"] * smoke]
    config = load_recipe(f"{part.recipe}:{','.join(filter(None, words))}")
    if part.folder:
        # The path is not given as a word of the recipe, because it may have a comma.
        folder = os.environ.get(FOLDER_VARIABLE, "")
        config.data.path = str(Path(folder).expanduser() / part.folder) if folder else ""
        config.name = config.name.replace("folder", name, 1)
    return config


def variable_of(data: DataConfig) -> str:
    """Returns the environment variable that names the folder of the images; "" if they need no folder."""
    return FOLDER_VARIABLE if data.source == "folder" else find_data_set(data.name).folder_variable


def is_available(subject: str, data: DataConfig) -> bool:
    """Returns whether the images of a subject are on this machine, or a package can fetch them.

    Args:
        subject: a class, a part, or a key of `PARTS`.
        data: the data part of the subject's configuration.
    """
    if data.source == "folder":
        return bool(data.path) and Path(data.path).is_dir()
    part = data.name.partition("/")[2]
    return (part or subject) in available_subjects(find_data_set(data.name), data)


def check_folder(subject: str, data: DataConfig) -> None:
    """Raises UserError, with the remedy, if the folder of a set is missing."""
    if data.source != "folder" or is_available(subject, data):
        return
    missing = f"there is no folder {data.path}" if data.path else "the images are not here"
    raise UserError(
        f"{subject}: {missing}; set {FOLDER_VARIABLE} to the folder that holds {PARTS[subject].folder}"
    )
