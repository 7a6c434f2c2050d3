"""Reads the meaning of folder and file names: good, anomalous, mask, or a part of the data set."""

import re
from typing import NamedTuple

from daad_jax.data.samples import HELD_OUT, TEST, TRAIN

NORMAL, ANOMALOUS, MASK, NEUTRAL = "normal", "anomalous", "mask", "neutral"

# Names are compared in lower case, without spaces, "-", "_" and ".".
PARTS = {
    TRAIN: "train training trainset trainingset",
    HELD_OUT: "val valid validation validationset",
    TEST: "test testing testset testpublic testprivate testprivatemixed",
}
ROLES = {
    NORMAL: "good goods ok oks okay normal normals normalimages goodimages okimages nondefective nondefect "
    "nondefects notdefective defectfree nodefect nodefects nodefectimages withoutdefect withoutdefects "
    "undamaged healthy free flawless intact pass passed accept accepted anomalyfree noanomaly noanomalies "
    "nonanomalous nonanomaly inlier inliers io",
    ANOMALOUS: "bad ng nok nogood notgood notok ko defect defects defective defectimages badimages anomaly "
    "anomalies anomalous anomalyimages abnormal abnormals abnormalities fault faults faulty reject rejects "
    "rejected invalid fail fails failed failure failures outlier outliers scrap nio",
    MASK: "mask masks maskimages groundtruth groundtruths gt gts label labels labelimages annotation "
    "annotations anno annos segmentation segmentations segmentationmask segmentationmasks defectmask "
    "defectmasks anomalymask anomalymasks groundtruthmask groundtruthmasks gtmask gtmasks maskgt",
    NEUTRAL: "image images imgs img jpegimages data dataset rgb public color colour photo photos picture "
    "pictures pics sample samples parts",
}
# "crack_masks" holds the masks of "crack". (A folder "white_label" may well hold images.)
MASK_WORDS = {"mask", "masks", "gt", "groundtruth", "segmentation", "segmentations"}
_PART_OF = {word: part for part, words in PARTS.items() for word in words.split()}
_ROLE_OF = {word: role for role, words in ROLES.items() for word in words.split()}
# Beside a folder "rgb", folders of these names hold other measurements of the same parts (MVTec 3D-AD).
OTHER_SENSORS = {"xyz", "depth", "pointcloud", "pointclouds", "pcd", "ply", "infrared", "ir"}

_WORD = r"(?:ground[_-]?truth|segmentation|annotation|mask|label|anno|seg|gt)s?"
_MASK_ENDING = re.compile(rf"(?P<base>.+?)[ _.-](?P<word>{_WORD})(?:[ _.-]?\d{{1,4}})?$", re.IGNORECASE)
_MASK_BEGINNING = re.compile(rf"(?P<word>{_WORD})[ _.-](?P<base>.+)$", re.IGNORECASE)
_NUMBER_ENDING = re.compile(r"(?P<base>.+?)[ _.-]\d{1,4}$")


class Meaning(NamedTuple):
    """The meaning of a folder's name; "" if the name does not say it.

    Attributes:
        part: `TRAIN`, `HELD_OUT` or `TEST`.
        role: `NORMAL`, `ANOMALOUS`, `MASK` or `NEUTRAL`.
        telling: the part of the name that distinguishes the folder's images from others.
    """

    part: str = ""
    role: str = ""
    telling: str = ""


def read_folder_name(name: str) -> Meaning:
    """Reads the name of a folder: "Test" is a part, "NG" a role, "train_good" both, "a7" neither."""
    folded = fold(name)
    if folded in _PART_OF or folded in _ROLE_OF:
        return _make_meaning(_PART_OF.get(folded, ""), _ROLE_OF.get(folded, ""), name)
    every_word = split_words(name)
    words = [word for word in every_word if _ROLE_OF.get(fold(word)) != NEUTRAL]
    # A number does not change the role ("good 2"), and a year does not change the part ("train2017").
    words = [w for w in words if not w.isdecimal()] or words
    has_short_number = any(w.isdecimal() and len(w) != 4 for w in every_word)
    folded_words = [fold(word) for word in words]
    joined = "".join(folded_words)
    if every_word and not words:
        return Meaning(role=NEUTRAL)
    if joined in _ROLE_OF or (joined in _PART_OF and not has_short_number):
        return _make_meaning(_PART_OF.get(joined, ""), _ROLE_OF.get(joined, ""), name)
    for word, rest in ((words[0], words[1:]), (words[-1], words[:-1])) if len(words) > 1 else ():
        rest_role = _ROLE_OF.get(fold("".join(rest)), "")
        if fold(word) in _PART_OF and rest_role:
            return _make_meaning(_PART_OF[fold(word)], rest_role, " ".join(rest))
        if fold(word) in MASK_WORDS:
            return Meaning(role=MASK, telling="_".join(rest))
    return Meaning(telling=name)


def _make_meaning(part: str, role: str, name: str) -> Meaning:
    return Meaning(part, role, name if role in (NORMAL, ANOMALOUS) else "")


def read_sibling_names(names: list[str]) -> dict[str, Meaning]:
    """Reads the names of all folders in one folder.

    If all names begin or end with the same word, this word is ignored: "MT_Free" beside "MT_Crack" means
    "Free".
    """
    meanings = {name: read_folder_name(name) for name in names}
    if any(fold(name) == "invalid" for name in names):  # "valid" then means good, not validation
        meanings |= {name: Meaning(role=NORMAL, telling=name) for name in names if fold(name) == "valid"}
    words = {name: split_words(name) for name in names}
    if len(names) > 1 and all(len(parts) > 1 for parts in words.values()):
        for shared, rest in ((0, slice(1, None)), (-1, slice(None, -1))):
            if len({parts[shared].lower() for parts in words.values()}) == 1:
                for name, meaning in meanings.items():
                    if not meaning.part and not meaning.role:
                        shorter = read_folder_name(" ".join(words[name][rest]))
                        meanings[name] = shorter._replace(telling=name if shorter.telling else "")
    return meanings


def fold(name: str) -> str:
    """Returns a name in lower case without separators, for comparisons."""
    return re.sub(r"[\s_.-]+", "", name).lower()


def split_words(name: str) -> list[str]:
    """Splits a name: "NG-Images" -> NG, Images; "GoodParts" -> Good, Parts; "val2017" -> val, 2017."""
    return [word for word in re.split(r"[\s_.-]+|(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=\d)", name) if word]


def split_mask_stem(stem: str) -> tuple[str, str]:
    """Splits a mask's stem into the stem of its image and the word for a mask: "1_mask_2" -> "1", "mask".

    Both are "" if the stem does not say that the file is a mask.
    """
    match = _MASK_ENDING.match(stem) or _MASK_BEGINNING.match(stem)
    return (match["base"], match["word"].lower()) if match else ("", "")


def strip_number(stem: str) -> str:
    """Removes the number at the end of a stem: "1_2" -> "1"; "" if there is no number."""
    match = _NUMBER_ENDING.match(stem)
    return match["base"] if match else ""
