"""Defines the commands of `daad-jax NAME ...`, `python -m daad_jax NAME ...` and the scripts of a checkout.

Each command imports JAX only after its options are checked.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

import daad_jax
from daad_jax import cli
from daad_jax.buckets import is_in_bucket, open_place
from daad_jax.cli import (
    Command,
    Invocation,
    define_batch_size,
    define_config,
    define_folder,
    define_workdir,
)
from daad_jax.cluster_options import define_cluster, join_cluster, watching_cluster
from daad_jax.config import Config
from daad_jax.endings import errors_in_one_line, sigterm_raises
from daad_jax.errors import UserError, did_you_mean
from daad_jax.held_signals import release_signals
from daad_jax.run_commands import RUN_COMMANDS
from daad_jax.terminal import say, warn

OVERLAYS = ("anomalous", "all", "none")  # which images get a picture with a heat map


def _define_train(options: flags.FlagValues, arguments: Sequence[str]) -> None:
    define_config(options, arguments)
    define_workdir(options, "the folder of the run (default: runs/ and the recipe's name)")
    flags.DEFINE_bool(
        "fresh_hold_out",
        False,
        "go on with a run although its images have changed: a share of the new good images is held out for "
        "the threshold, but no image that has trained. It needs networks that learn, and more "
        "config.train.steps",
        flag_values=options,
    )
    _define_check(options)
    define_cluster(options)


def _train(call: Invocation) -> None:
    options = call.options
    config: Config = options.config
    if not options["config"].present:
        raise UserError(
            "--config is missing; for instance --config cifar10 or --config folder:path/to/images"
        )
    workdir = open_place(options.workdir) if options.workdir else _default_workdir(config)
    with watching_cluster(options):
        _train_here(call, config, workdir)


def _train_here(call: Invocation, config: Config, workdir: Path) -> None:
    """Trains in this process, alone or together with other processes."""
    options = call.options
    from daad_jax.runtime import processes
    from daad_jax.training.loop import train
    from daad_jax.validation import validate

    validate(config)  # before the processes meet
    join_cluster(options)
    result = train(config, workdir, fresh_hold_out=options.fresh_hold_out, check=options.check)
    if processes.is_first():
        words = [call.spell("evaluate" if result.test_images else "predict"), "--workdir", str(workdir)]
        say(" ".join(["next:", *words, *([] if result.test_images else ["IMAGE_OR_FOLDER..."])]))


def _default_workdir(config: Config) -> Path:
    """Returns the folder `runs/NAME`, with the name of the run.

    Raises:
        UserError: the name leads to a folder outside of `runs`.
    """
    if config.name in (".", "..") or not {"/", "\\"}.isdisjoint(config.name):
        raise UserError(
            f"config.name = {config.name!r}: names the folder of the run below runs/, so it must be a plain "
            "name; give another one, or --workdir"
        )
    return Path("runs") / config.name


def _define_evaluate(options: flags.FlagValues, arguments: Sequence[str]) -> None:
    define_workdir(options, "the folder of the trained run, as the training printed it")
    flags.DEFINE_string(
        "data",
        None,
        "a folder of labelled images to test instead of the run's own: another test set, or moved images",
        flag_values=options,
    )
    flags.DEFINE_string(
        "data_dir", None, "the TFDS directory in which the data set of the run is now", flag_values=options
    )
    define_folder(
        options,
        "out",
        "the folder for the results, new or empty (default: WORKDIR; with --data or --data_dir, "
        "WORKDIR/evaluations/NAME)",
    )
    _define_check(options)
    define_batch_size(options)
    define_cluster(options)


def _evaluate(call: Invocation) -> None:
    options, workdir = call.options, call.workdir()
    for name in ("data", "data_dir", "out"):
        if options[name].present and not options[name].value:
            raise UserError(f"--{name} is empty; give a folder")
    with watching_cluster(options):
        from daad_jax.evaluation.outputs import evaluate

        join_cluster(options)
        data, out = (open_place(value) if value else None for value in (options.data, options.out))
        data_dir = options.data_dir or ""
        evaluate(workdir, options.batch_size, data=data, data_dir=data_dir, out=out, check=options.check)


def _define_predict(options: flags.FlagValues, arguments: Sequence[str]) -> None:
    define_workdir(options, "the folder of the trained run, as the training printed it")
    define_folder(
        options,
        "out",
        "the folder for the results, new or empty (default: WORKDIR/predictions, then predictions-2, ...)",
    )
    flags.DEFINE_enum(
        "overlays",
        "anomalous",
        OVERLAYS,
        f"which images get a picture with their heat map: {', '.join(OVERLAYS)}",
        flag_values=options,
    )
    flags.DEFINE_float(
        "threshold",
        None,
        "an image with a higher score is anomalous (default: the threshold of the run)",
        flag_values=options,
    )
    flags.DEFINE_float(
        "false_alarm_rate",
        None,
        "choose the threshold that flags at most this share of normal images, e.g. 0.01 for 1 %",
        flag_values=options,
    )
    define_batch_size(options)
    define_cluster(options)


def _predict(call: Invocation) -> None:
    options, workdir = call.options, call.workdir()
    if not call.words:
        raise UserError("no images were named; give files, folders or a pattern in quotes")
    if call.threshold() is not None and options.false_alarm_rate is not None:
        raise UserError("--threshold and --false_alarm_rate exclude each other; give one of them")
    with watching_cluster(options):
        _predict_here(call, workdir)


def _predict_here(call: Invocation, workdir: Path) -> None:
    """Scores images in this process, alone or together with other processes."""
    options = call.options
    from daad_jax.detection.detector import Detector
    from daad_jax.detection.shared_predictions import predict_together
    from daad_jax.detection.sources import find
    from daad_jax.runtime import processes

    join_cluster(options)
    out = open_place(options.out) if options.out else None
    with processes.errors_end_all():
        next(find(call.words))  # reports a missing image before the model is loaded
        detector = Detector.load(workdir, options.batch_size)
    if options.threshold is not None:
        detector.threshold = options.threshold
    else:
        calibration, rate = detector.calibration, options.false_alarm_rate
        rate = calibration.false_alarm_rate if rate is None else rate
        detector.threshold = calibration.threshold_at(rate)
        warning = calibration.shortage(rate)
        if warning and processes.is_first():
            warn(warning)
    predict_together(detector, call.words, workdir, out, options.overlays)


def _define_export(options: flags.FlagValues, arguments: Sequence[str]) -> None:
    define_workdir(options, "the folder of the trained run, as the training printed it")
    flags.DEFINE_list(
        "formats",
        None,
        "the formats to write: stablehlo, onnx or both (default: both; without the extra export, stablehlo)",
        flag_values=options,
    )
    define_folder(options, "output", "the folder for the files (default: WORKDIR/export)")
    flags.DEFINE_list(
        "batch_sizes",
        ["any"],
        "how many images a file takes: any, or numbers such as 1,16; one file is written for each. More "
        "programs can read a file for a fixed number",
        flag_values=options,
    )
    for name in ("height", "width"):
        help_text = f"the {name} of the images that the exported model will get; give both or neither"
        flags.DEFINE_integer(name, None, help_text, 1, 2**16, flag_values=options)


def _export(call: Invocation) -> None:
    options, workdir = call.options, call.workdir()
    if (options.height is None) != (options.width is None):
        raise UserError("--height and --width belong together; give both or neither")
    from daad_jax.export.exporter import export

    size = (options.height, options.width) if options.height else None
    output = open_place(options.output) if options.output else None
    files = export(workdir, options.formats, size, output, options.batch_sizes)
    for name, file in files.items():
        if is_in_bucket(file):
            say(f"next: copy {file}, and run it as examples/score_{name}.py of the repository does")
        elif call.is_script:
            say(f"next: python examples/score_{name}.py {file} IMAGE...")
        else:
            say(f"next: run {file} as examples/score_{name}.py of the repository does")


def _define_nothing(options: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Defines no options."""


def _select_recipe(call: Invocation) -> None:
    if not call.words:
        raise UserError("no runs were named; give one or more folders that the training printed")
    from daad_jax.selection.ranking import select_recipe

    select_recipe([open_place(word) for word in call.words])


def _define_check(options: flags.FlagValues) -> None:
    flags.DEFINE_bool(
        "check",
        False,
        "read all images again, and decode them again if one has changed without a new time or size",
        flag_values=options,
    )


COMMANDS = {
    "train": Command(
        "--config NAME[:words] [--workdir DIR] [--config.train.batch_size=256 ...]",
        "Trains a model on normal images. The same command again resumes from the last checkpoint. Example: "
        "--config folder:path/to/good/images --config.train.steps=300",
        _define_train,
        _train,
        trains=True,
    ),
    "evaluate": Command(
        "--workdir DIR [--data FOLDER]",
        "Scores the labelled test images of the run, or the images of another labelled folder. Writes "
        "metrics, scores.csv, pictures and report.html into the workdir, or into WORKDIR/evaluations.",
        _define_evaluate,
        _evaluate,
    ),
    "predict": Command(
        "--workdir DIR IMAGE_OR_FOLDER...",
        "Scores new images: files, folders (with all sub-folders) and patterns in quotes, such as '*.png'. "
        "Writes scores.csv, scores.jsonl and pictures with heat maps.",
        _define_predict,
        _predict,
        takes_words=True,
    ),
    "export": Command(
        "--workdir DIR [--formats stablehlo,onnx]",
        "Writes the model as StableHLO and ONNX files. They run without this package.",
        _define_export,
        _export,
    ),
    "select-recipe": Command(
        "RUN...",
        "Ranks trained runs, and the ways to score with them. It measures how well each run separates "
        "held-out normal images from corrupted copies of them, and reads no test image.",
        _define_nothing,
        _select_recipe,
        takes_words=True,
    ),
    **RUN_COMMANDS,
}


def run_script(name: str) -> None:
    """Runs a command as a script of the checkout, with the arguments of this process."""
    cli.run(COMMANDS[name])


def main(program: str = "daad-jax") -> None:
    """Runs `daad-jax NAME ...` with the arguments of this process.

    Args:
        program: the name that the user calls, for messages.

    Raises:
        SystemExit: the code is the exit status.
    """
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in COMMANDS:
        cli.run(COMMANDS[name], f"{program} {name}", arguments)
        return
    with sigterm_raises(), errors_in_one_line(program):
        release_signals()
        if name in cli.HELP:
            print(_help(program), flush=True)
        elif name == "--version":
            print(f"daad_jax {daad_jax.__version__}", flush=True)
        else:
            raise UserError(f"{name!r}: no such command; {did_you_mean(name, COMMANDS)}")


def _help(program: str) -> str:
    width = max(map(len, COMMANDS))
    lines = [
        f"{program} COMMAND ...",
        "",
        "Finds anomalies in images with a model trained on normal images.",
        "",
    ]
    lines += [f"  {name:{width}}  {command.summary.split('. ')[0]}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", f"{program} COMMAND --help shows the options of a command."])
