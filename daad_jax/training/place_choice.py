"""Chooses whether the place of a block in the image counts. Corrupted training images decide, not labels."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from daad_jax.config import Config
from daad_jax.data.corruptions import anomalies_of, corrupt
from daad_jax.scoring.leave_one_out import image_distances
from daad_jax.scoring.memory_distances import SMALLEST_UNIT
from daad_jax.scoring.separation import separation
from daad_jax.training.block_sample import BlockSample, ImageReader

PLACE_WEIGHTS = (0.0, 1.0)
MAX_IMAGES = 24  # this many images are corrupted, in every way
MIN_IMAGES = 4  # one half is corrupted, and the other half is compared with it
MAX_ITEMS = 1000  # of each memory during the choice


def choose_place_weight(
    config: Config, reader: ImageReader, samples: list[BlockSample], scalings: list[Any], images: Any
) -> dict[float, float]:
    """Measures the separation that each of `PLACE_WEIGHTS` reaches.

    A few training images leave the memories. The separation says how well the distances of these images
    differ from the distances of their corrupted copies.

    Args:
        config: the configuration of the run.
        reader: reads the run's images.
        samples: the blocks of the training images, for each memory.
        scalings: the scalings of the memories.
        images: the training images `[N, H, W, C]`.

    Returns:
        The separation by place weight; empty if there are too few images or no memory with several blocks.
    """
    weights = config.score.weights or (1.0,) * len(samples)
    has_places = any(weight and block for weight, block in zip(weights, config.model.blocks))
    if len(images) < MIN_IMAGES or not has_places:
        return {}
    rng = np.random.default_rng([config.seed, 13])
    chosen = np.sort(rng.permutation(len(images))[: min(MAX_IMAGES, len(images) // 2)])
    is_reference = np.ones(len(images), bool)
    is_reference[chosen] = False
    normal = np.concatenate([np.asarray(images[i : i + 1]) for i in chosen.tolist()])
    kinds, radii = anomalies_of(config.data.protocol)
    sets = [normal, *(corrupt(normal, kind, radii, config.seed) for kind in kinds)]
    # R of the images themselves, then of the copies of every kind, for each place weight.
    distances: dict[float, np.ndarray] = dict.fromkeys(PLACE_WEIGHTS, np.zeros(()))
    maps = [[batch for _, batch in reader.read(each, "choosing")] for each in sets]
    for index, (weight, sample, scaling) in enumerate(zip(weights, samples, scalings)):
        if not weight:
            continue
        reference = sample.of_images(is_reference)
        picked = np.sort(rng.permutation(len(reference.blocks))[:MAX_ITEMS])
        reference = BlockSample(*(array[picked] for array in reference))
        blocks = [np.concatenate([batch[index] for batch in batches]) for batches in maps]
        for place_weight in PLACE_WEIGHTS:
            memory = scaling | {"place": sample.place_length(scaling, place_weight)}
            memory = memory | {"items": reference.scaled(memory)}
            # No image is in the memory, so no item is left out.
            measured = np.stack(
                [
                    image_distances(
                        of_set, np.full(len(of_set), -1), memory, reference.owners, config.score.pooling
                    )
                    for of_set in blocks
                ]
            )
            unit = max(float(measured[0].mean()), SMALLEST_UNIT)
            distances[place_weight] = distances[place_weight] + weight * measured / unit
    return {
        place_weight: float(np.mean([separation(r[0], copies) for copies in r[1:]]))
        for place_weight, r in distances.items()
    }


def describe_choice(separations: Mapping[float, float]) -> str:
    """Describes the choice and its reason in one sentence."""
    if not separations:
        return "a block may be anywhere: there are too few images or blocks to choose"
    without, with_place = (separations[weight] for weight in PLACE_WEIGHTS)
    verdict = "the place of a block counts" if with_place > without else "a block may be anywhere"
    return (
        f"{verdict}: corrupted training images separate by {with_place:.4f} if the place counts, "
        f"by {without:.4f} if not"
    )
