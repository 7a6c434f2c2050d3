"""Refuses impossible configurations with one line that names the key, the value and the remedy."""

from collections.abc import Callable, Collection

from daad_jax.config import MAX_BATCH, Config, check_types
from daad_jax.errors import UserError, nearest

SOURCES = ("tfds", "folder", "memory")
PROTOCOLS = ("one_class", "leave_one_out", "inspection")
FITS = ("exact", "pad", "resize", "aspect")
ON_BAD_IMAGE = ("stop", "skip")
MIXED_CHANNELS = ("convert", "stop")
SCHEDULES = ("constant", "cosine")
PRECISIONS = ("float32", "bfloat16")
ITEMS = ("learned", "coreset")
FEATURE_SCALINGS = ("raw", "standardised", "whitened")
MAX_BLOCKS = 8  # memories of a coreset
MAX_SIDE = 4096  # pixels
MIN_TILE = 16  # pixels

Need = Callable[[bool, str, str], None]


def validate(config: Config) -> None:
    """Checks every value of a configuration, and checks that the values fit together.

    Raises:
        UserError: a value is impossible. The message names the first such value, its key and the remedy.
    """

    def need(ok: bool, key: str, remedy: str) -> None:
        if not ok:
            value: object = config
            for part in key.split("."):
                value = getattr(value, part)
            raise UserError(f"config.{key} = {value!r}: {remedy}")

    check_types(config)
    need(bool(config.name) and "\0" not in config.name, "name", "must not be empty")
    need(0 <= config.seed < 2**31, "seed", "must be between 0 and 2^31 - 1")
    _check_data(config, need)
    _need_one_of(need, "model.items", config.model.items, ITEMS)
    need(
        bool(config.model.features) or not config.uses_coreset,
        "model.items",
        "a coreset needs features (config.model.features, for instance 'efficientnet_lite0')",
    )
    _check_size(config, need)
    if not config.uses_coreset:
        _check_networks(config, need)
    _check_loss(config, need)
    _check_training(config, need)
    _check_score(config, need)
    _check_names(config, need)
    _check_features(config, need)


def _check_data(config: Config, need: Need) -> None:
    data = config.data
    _need_one_of(need, "data.source", data.source, SOURCES)
    _need_one_of(need, "data.protocol", data.protocol, PROTOCOLS)
    _need_one_of(need, "data.fit", data.fit, FITS)
    _need_one_of(need, "data.on_bad_image", data.on_bad_image, ON_BAD_IMAGE)
    _need_one_of(need, "data.mixed_channels", data.mixed_channels, MIXED_CHANNELS)
    _ = data.ranges  # raises an error if the range cannot be read
    need(
        data.fit != "aspect" or (data.height == data.width and data.height % 32 == 0),
        "data.fit",
        "'aspect' needs data.height = data.width, a multiple of 32: the shorter side of the images; choose "
        "'resize' for another size",
    )
    need(data.bits in (0, 8, 16), "data.bits", "must be 8, 16 or 0 (found from the training images)")
    need(data.max_pixels >= 1, "data.max_pixels", "must be at least 1")
    need(data.channels in (1, 3), "data.channels", "must be 1 (grey) or 3 (RGB)")
    _check_tiles(config, need)
    need(0 < data.test_fraction <= 0.5, "data.test_fraction", "must be in (0, 0.5]")
    need(0 < data.calibration_fraction <= 0.5, "data.calibration_fraction", "must be in (0, 0.5]")
    side = max(data.height, data.width)
    need(0 <= data.shift <= side, "data.shift", f"must be between 0 and {side} pixels, the longer side")
    need(data.limit_train >= 0, "data.limit_train", "must be 0 (all) or more")
    need(data.limit_test >= 0, "data.limit_test", "must be 0 (all) or more")


def _check_tiles(config: Config, need: Need) -> None:
    data = config.data
    if not data.tiles:
        return
    # The joined maps of much smaller tiles would have many more pixels than the image.
    smallest = max(MIN_TILE, (max(data.height, data.width) + 1) // 2)
    need(
        data.tiles >= smallest,
        "data.tiles",
        f"must be 0 (off) or at least {smallest} pixels (half of data.height and data.width, and {MIN_TILE})",
    )
    need(
        data.fit in ("resize", "aspect"),
        "data.tiles",
        f"needs data.fit = 'resize', but data.fit is {data.fit!r}",
    )
    need(
        data.source != "tfds" or data.protocol == "inspection",
        "data.tiles",
        f"is for images with defects, but data.protocol is {data.protocol!r}; set data.tiles = 0",
    )
    need(
        config.model.place_weight <= 0,
        "model.place_weight",
        "must be 0, because the place of a block does not count in tiles; or set data.tiles = 0",
    )


def _check_size(config: Config, need: Need) -> None:
    """Checks the size of the images and of the networks' input."""
    data, model = config.data, config.model
    if config.uses_coreset:
        for key in ("height", "width"):
            need(0 < getattr(data, key) <= MAX_SIDE, f"data.{key}", f"must be between 1 and {MAX_SIDE}")
        return
    need(1 <= model.levels <= 8, "model.levels", "must be between 1 and 8")
    place = model.blocks[0] if model.features and model.blocks else 1  # pixels
    unit = max(place, 1) * 2**model.levels
    for key in ("height", "width"):
        value = getattr(data, key)
        near = max(unit, round(value / unit) * unit)
        what = "2^levels" if place == 1 else "model.blocks * 2^levels"
        need(
            0 < value <= MAX_SIDE and value % unit == 0,
            f"data.{key}",
            f"must be a multiple of {what} = {unit}, at most {MAX_SIDE}; the nearest is {near} "
            "(data.fit = 'pad' or 'resize' brings images to that size)",
        )


def _check_networks(config: Config, need: Need) -> None:
    model = config.model
    need(model.base_width >= 1, "model.base_width", "must be at least 1")
    need(model.max_width >= model.base_width, "model.max_width", "must be at least model.base_width")
    need(model.discriminator_width >= 1, "model.discriminator_width", "must be at least 1")
    need(
        len(model.skips) == model.levels - 1,
        "model.skips",
        f"needs levels - 1 = {model.levels - 1} entries, from 1/{2 ** (model.levels - 1)} to 1/2",
    )
    for key in ("memory_items", "division"):
        need(
            len(getattr(model, key)) == model.levels,
            f"model.{key}",
            f"needs levels = {model.levels} entries, bottleneck first",
        )
    need(all(n >= 0 for n in model.memory_items), "model.memory_items", "must be 0 or more each")
    need(
        all(len(d) == 3 and all(cuts >= 0 for cuts in d) for d in model.division),
        "model.division",
        "needs three numbers of 0 or more per scale: (r_h, r_w, r_c)",
    )
    need(0 <= model.shrink < 1, "model.shrink", "must be in [0, 1)")


def _check_features(config: Config, need: Need) -> None:
    model, score = config.model, config.score
    need(model.temperature > 0, "model.temperature", "must be above 0")
    if not model.features:
        return
    # The frozen network. Its module imports JAX, so it is imported only here.
    from daad_jax.extractors.extractor import find_extractor

    extractor = find_extractor(model.features)
    extractor.check_size(config.data.height, config.data.width)
    _need_one_of(need, "model.feature_scaling", model.feature_scaling, FEATURE_SCALINGS)
    need(
        model.neighbourhood >= 1 and model.neighbourhood % 2 == 1,
        "model.neighbourhood",
        "must be odd, 1 or more",
    )

    # The blocks, and the layers that are read for each of them.
    need(
        1 <= len(model.blocks) <= (MAX_BLOCKS if config.uses_coreset else 1),
        "model.blocks",
        f"needs 1 to {MAX_BLOCKS} entries"
        if config.uses_coreset
        else "needs one entry if the items are learned",
    )
    need(
        all(side >= (0 if config.uses_coreset else 1) for side in model.blocks),
        "model.blocks",
        "needs sides in pixels; 0 is the whole image, for a coreset only",
    )
    need(
        all(
            each and all(0 <= layer < extractor.layer_count for layer in each)
            for each in model.feature_layers
        )
        and len(model.feature_layers) in (0, len(model.blocks)),
        "model.feature_layers",
        f"needs one tuple of layers for each of the {len(model.blocks)} model.blocks; {extractor.name} has "
        f"the layers 0 to {extractor.layer_count - 1}",
    )
    need(
        not config.train.restore,
        "train.restore",
        "restores pixels, so it must be '' if model.features is set",
    )

    # The memories whose items come from the data.
    if config.uses_coreset:
        count = len(model.blocks)
        need(
            len(model.memory_items) == count and all(n >= 1 for n in model.memory_items),
            "model.memory_items",
            f"needs one number of 1 or more for each of the {count} model.blocks",
        )
        need(
            0 <= model.nearest <= min(model.memory_items),
            "model.nearest",
            "must be between 0 (a soft read, by model.temperature) and the smallest of model.memory_items",
        )
        for key in ("weights", "heat_weights"):
            weights = getattr(score, key)
            need(
                not weights or (len(weights) == count and min(weights) >= 0 and max(weights) > 0),
                f"score.{key}",
                f"needs one number of 0 or more for each of the {count} model.blocks, one of them above 0",
            )


def _check_loss(config: Config, need: Need) -> None:
    loss = config.loss
    for key in ("reconstruction", "adversarial", "alignment"):
        need(getattr(loss, key) >= 0, f"loss.{key}", "must be 0 or more")
    need(
        loss.reconstruction + loss.adversarial + loss.alignment > 0,
        "loss.reconstruction",
        "at least one loss weight must be above 0",
    )


def _check_training(config: Config, need: Need) -> None:
    train = config.train
    for key in ("steps", "batch_size", "steps_per_call", "log_every", "checkpoint_every", "max_to_keep"):
        need(getattr(train, key) >= 1, f"train.{key}", "must be at least 1")
    need(train.batch_size <= MAX_BATCH, "train.batch_size", f"must be at most {MAX_BATCH}")
    need(train.learning_rate > 0, "train.learning_rate", "must be above 0")
    need(0 <= train.beta1 < 1, "train.beta1", "must be in [0, 1)")
    need(0 <= train.beta2 < 1, "train.beta2", "must be in [0, 1)")
    _need_one_of(need, "train.schedule", train.schedule, SCHEDULES)
    need(
        0 <= train.warmup_steps < train.steps,
        "train.warmup_steps",
        "must be 0 or more and below train.steps",
    )
    _need_one_of(need, "train.precision", train.precision, PRECISIONS)
    for key in ("steps", "log_every", "checkpoint_every"):
        need(
            getattr(train, key) % train.steps_per_call == 0,
            f"train.{key}",
            f"must be a multiple of train.steps_per_call = {train.steps_per_call}",
        )
    need(train.devices >= 0, "train.devices", "must be 0 (all) or more")


def _check_score(config: Config, need: Need) -> None:
    score = config.score
    need(0 <= score.gamma <= 1, "score.gamma", "must be in [0, 1]")
    need(
        config.uses_discriminator or score.gamma == 1,
        "score.gamma",
        "must be 1 where loss.adversarial = loss.alignment = 0 (no discriminator to score with)",
    )
    need(0 <= score.smoothing <= 32, "score.smoothing", "must be between 0 and 32 pixels")
    need(1 <= score.pooling <= 64, "score.pooling", "must be between 1 (the mean) and 64")
    need(0 <= score.heat_smoothing <= 0.25, "score.heat_smoothing", "must be between 0 and 0.25")
    need(
        not config.uses_coreset or score.precision == "float32",
        "score.precision",
        "memories that are filled from the data are always read in float32; use 'float32'",
    )
    need(0 < score.false_alarm_rate < 1, "score.false_alarm_rate", "must be in (0, 1)")
    need(
        0 <= score.batch_size <= MAX_BATCH,
        "score.batch_size",
        f"must be between 0 (chosen by size) and {MAX_BATCH}",
    )


def _check_names(config: Config, need: Need) -> None:
    """Checks that the tables of functions have the names in the configuration."""
    # These modules import JAX. So this check comes last, and other mistakes need not wait for the import.
    from daad_jax.method.losses import DISTANCES as LOSS_DISTANCES
    from daad_jax.method.losses import GENERATOR_LOSSES
    from daad_jax.method.restoration import tasks_of
    from daad_jax.scoring.distances import ALIGNMENTS, DISTANCES
    from daad_jax.scoring.precision import PRECISIONS as SCORE_PRECISIONS

    _need_one_of(need, "loss.distance", config.loss.distance, LOSS_DISTANCES)
    _need_one_of(need, "loss.generator", config.loss.generator, GENERATOR_LOSSES)
    _need_one_of(need, "score.distance", config.score.distance, DISTANCES)
    _need_one_of(need, "score.alignment", config.score.alignment, ALIGNMENTS)
    _need_one_of(need, "score.precision", config.score.precision, SCORE_PRECISIONS)
    needs_square = any(task.needs_square for task in tasks_of(config.train.restore))
    need(
        config.data.height == config.data.width or not needs_square,
        "train.restore",
        "turns need square images (data.height = data.width)",
    )


def _need_one_of(need: Need, key: str, value: str, allowed: Collection[str]) -> None:
    near = nearest(value, allowed)
    hint = f" (did you mean {near!r}?)" if near else ""
    need(value in allowed, key, f"must be one of {', '.join(allowed)}{hint}")
