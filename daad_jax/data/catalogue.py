"""The catalogue of data sets that a configuration can name. This file opens no image and imports no TFDS.

A new data set is one entry in `DATA_SETS` and one recipe of the same name in `configs/`. If TFDS does not
have the data set, it also needs a builder in `tfds_builders.py`.
"""

from dataclasses import dataclass

from daad_jax.errors import UserError, did_you_mean


@dataclass(frozen=True)
class DataSet:
    """What the code has to know about a data set before it opens the images.

    A data set has either `classes` or `parts`. With classes, the configuration chooses the normal class.
    With parts, the labels of every part say which images are good, and the part is opened as "NAME/PART".

    Attributes:
        name: the name in TFDS, in `config.data.name`, and of the recipe in `configs/`.
        title: the name for people.
        noun: what one class or part is called, in the singular.
        plural: the plural of `noun`.
        default_subject: the class or part that the recipe takes if the user names none. Pictures of results
            show this class or part.
        classes: the class names, in the order of their labels in TFDS.
        parts: the names of the TFDS builder's configurations.
        default_subjects: the classes or parts in a table of results; empty for all.
        restrictive_license: the license of the images if it forbids us to publish them; else "".
        folder_variable: the environment variable that names the folder of the original files, which holds
            one folder for each part. "" if the data set needs no such folder.
        needs_tensorflow: whether preparing the data set takes TensorFlow, as TFDS's own builders do.
    """

    name: str
    title: str
    noun: str
    plural: str
    default_subject: str
    classes: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    default_subjects: tuple[str, ...] = ()
    restrictive_license: str = ""
    folder_variable: str = ""
    needs_tensorflow: bool = True

    @property
    def subjects(self) -> tuple[str, ...]:
        """The classes or the parts: one model is trained for each of them."""
        return self.classes or self.parts

    @property
    def config_names(self) -> tuple[str, ...]:
        """The values that `config.data.name` can have for this data set."""
        return tuple(f"{self.name}/{part}" for part in self.parts) or (self.name,)

    @property
    def may_publish_images(self) -> bool:
        """Whether pictures of the images may stand in the documentation."""
        return not self.restrictive_license


DATA_SETS = {
    data_set.name: data_set
    for data_set in (
        DataSet(
            name="mnist",
            title="MNIST",
            noun="digit",
            plural="digits",
            default_subject="8",
            classes=tuple(str(digit) for digit in range(10)),
        ),
        DataSet(
            name="cifar10",
            title="CIFAR-10",
            noun="class",
            plural="classes",
            default_subject="automobile",
            classes=(
                "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
            ),
        ),
        DataSet(
            name="mvtec_ad",
            title="MVTec AD",
            noun="category",
            plural="categories",
            default_subject="bottle",
            parts=(
                "bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill",
                "screw", "tile", "toothbrush", "transistor", "wood", "zipper",
            ),
            restrictive_license="CC BY-NC-SA 4.0",
            folder_variable="DAAD_MVTEC_DIR",
            needs_tensorflow=False,
        ),
        DataSet(
            name="solar_cells",
            title="Solar cells",
            noun="kind",
            plural="kinds",
            default_subject="mono",
            parts=("mono", "poly", "all"),
            default_subjects=("mono", "poly"),
            restrictive_license="CC BY-NC-SA 4.0",
            needs_tensorflow=False,
        ),
    )
}  # fmt: skip


def find_data_set(config_name: str) -> DataSet:
    """Returns the entry that a value of `config.data.name` belongs to.

    Args:
        config_name: the name of a data set with classes, or "NAME/PART".

    Raises:
        UserError: there is no such data set or part. The message has the most similar known name, or the
            parts if only the part is missing.
    """
    name, _, part = config_name.partition("/")
    data_set = DATA_SETS.get(name)
    if data_set and config_name in data_set.config_names:
        return data_set
    sets = [data_set] if data_set else DATA_SETS.values()
    known = [known_name for entry in sets for known_name in entry.config_names]
    # "mvtec_ad" alone resembles "mvtec_ad/pill" by chance, so all the parts are listed.
    part_is_missing = bool(data_set and data_set.parts and not part)
    hint = f"known: {', '.join(known)}" if part_is_missing else did_you_mean(config_name, known)
    raise UserError(f"config.data.name = {config_name!r}: no such data set; {hint}")
