"""Defines further commands for finished runs. `commands.COMMANDS` adds them to its own."""

from collections.abc import Sequence

from absl import flags

from daad_jax.buckets import is_in_bucket, open_place
from daad_jax.cli import Command, Invocation, define_batch_size, define_folder, define_workdir
from daad_jax.errors import UserError
from daad_jax.terminal import say

RAY_BATCH = 64  # images that a worker scores at once


def _define_calibrate(options: flags.FlagValues, arguments: Sequence[str]) -> None:
    define_workdir(options, "the folder of the trained run, as the training printed it")
    flags.DEFINE_float(
        "rate",
        None,
        "the false-alarm rate of the threshold, e.g. 0.01 for 1 % (default: the run's rate)",
        flag_values=options,
    )
    flags.DEFINE_float(
        "confidence",
        None,
        "choose a threshold whose true false-alarm rate is at most --rate with this confidence, e.g. 0.95 "
        "(default: on average)",
        flag_values=options,
    )
    flags.DEFINE_bool(
        "with_held_out",
        False,
        "calibrate with the images that the training held out, too; only if the new images look like these",
        flag_values=options,
    )
    flags.DEFINE_bool(
        "list", False, "show the calibrations of the run, and change nothing", flag_values=options
    )
    flags.DEFINE_string(
        "use", None, "go back to a calibration: its ID, or 'training'; needs no folder", flag_values=options
    )
    flags.DEFINE_bool(
        "check",
        False,
        "read all images again, and decode them again if one has changed without a new time or size",
        flag_values=options,
    )
    define_batch_size(options)


def _calibrate(call: Invocation) -> None:
    options, workdir = call.options, call.workdir()
    chosen = [options.list, options.use is not None, bool(call.words)]
    if sum(chosen) != 1:
        raise UserError("give folders of good images, or --list, or --use ID: one of these three")
    from daad_jax.detection.recalibration import calibrate_run, say_calibrations
    from daad_jax.training.calibrations import use

    if options.list:
        say_calibrations(workdir)
    elif options.use is not None:
        say(f"in use now: calibration {use(workdir, options.use)}")
    else:
        calibrate_run(
            workdir,
            call.words,
            rate=options.rate,
            confidence=options.confidence,
            with_held_out=options.with_held_out,
            batch_size=options.batch_size,
            check=options.check,
        )


def _define_compare(options: flags.FlagValues, arguments: Sequence[str]) -> None:
    define_folder(options, "out", "the file of the page (default: comparison.html in the current folder)")


def _compare(call: Invocation) -> None:
    if len(call.words) < 2:
        raise UserError("fewer than two runs were named; give the folders of evaluated runs")
    from daad_jax.evaluation.comparison_page import compare

    out = call.options.out
    compare([open_place(word) for word in call.words], open_place(out) if out else None)


def _define_serve(options: flags.FlagValues, arguments: Sequence[str]) -> None:
    define_workdir(options, "the folder of the trained run, as the training printed it")
    flags.DEFINE_string(
        "export",
        None,
        "serve this .stablehlo file, with the model.json beside it, in place of a run",
        flag_values=options,
    )
    flags.DEFINE_string(
        "host", "127.0.0.1", "the address to listen at; 0.0.0.0 answers other machines", flag_values=options
    )
    flags.DEFINE_list(
        "hosts",
        [],
        "names that the server answers for, such as parts.example.com, and whose pages may post images; "
        "separated by commas, * for every name (default: localhost and IP addresses; every name if other "
        "machines are answered)",
        flag_values=options,
    )
    flags.DEFINE_integer("port", 8000, "the port; 0 takes any that is free", 0, 65535, flag_values=options)
    flags.DEFINE_integer(
        "max_waiting", 256, "how many images may wait; more are refused", 1, 2**20, flag_values=options
    )
    define_batch_size(options)


def _serve(call: Invocation) -> None:
    options = call.options
    if options.export is not None and options.workdir is not None:
        raise UserError("--workdir and --export exclude each other; give the run, or an exported file of it")
    from daad_jax.serving.scoring_queue import Judge
    from daad_jax.serving.server import name_of, serve

    detector: Judge
    if options.export is not None:
        from daad_jax.export.exported_detector import ExportedDetector

        if is_in_bucket(options.export):
            raise UserError(
                f"{options.export}: an exported file is served from this machine only; copy it, its .sha256 "
                "and its model.json to a folder: gcloud storage cp"
            )
        detector = ExportedDetector(open_place(options.export), options.batch_size)
        name = detector.config.name
    else:
        from daad_jax.detection.detector import Detector

        workdir = call.workdir()
        detector, name = Detector.load(workdir, options.batch_size), name_of(workdir)
    serve(detector, name, options.host, options.port, options.max_waiting, options.hosts)


def _define_predict_on_ray(options: flags.FlagValues, arguments: Sequence[str]) -> None:
    define_workdir(options, "the folder of the trained run; all machines must see it under this name")
    define_folder(options, "out", "the folder for the results, new or empty (default: WORKDIR/predictions)")
    flags.DEFINE_string(
        "address",
        "",
        "the address of the Ray cluster: HOST:PORT, or auto for the cluster of this machine; without this "
        "option, a new cluster starts on this machine",
        flag_values=options,
    )
    flags.DEFINE_integer("workers", 1, "how many processes score at the same time", 1, flag_values=options)
    flags.DEFINE_float("cpus", 1.0, "how many processors a worker takes", 0.1, flag_values=options)
    flags.DEFINE_string(
        "accelerators",
        "",
        "the accelerators of each worker, for instance TPU=4 or GPU=1",
        flag_values=options,
    )
    flags.DEFINE_float(
        "threshold",
        None,
        "an image with a higher score is anomalous (default: the threshold of the run)",
        flag_values=options,
    )
    define_batch_size(options)


def _predict_on_ray(call: Invocation) -> None:
    options, workdir = call.options, call.workdir()
    if not call.words:
        raise UserError("no images were named; give files, folders or a pattern in quotes")
    threshold = call.threshold()
    from daad_jax.detection.ray_predictions import Workers, predict_on_ray

    workers = Workers(options.address, options.workers, options.cpus, _accelerators(options.accelerators))
    out = open_place(options.out) if options.out else None
    predict_on_ray(workdir, call.words, out, workers, threshold, options.batch_size or RAY_BATCH)


def _accelerators(text: str) -> dict[str, float]:
    """Parses the name and the number of the accelerators of a worker, from NAME=NUMBER or "".

    Raises:
        UserError: the text has another form.
    """
    name, _, number = text.partition("=")
    if not text:
        return {}
    if not name or not number.isdecimal() or not int(number):
        raise UserError(f"--accelerators={text}: must be NAME=NUMBER, for instance TPU=4 or GPU=1")
    return {name: float(number)}


def _define_review(options: flags.FlagValues, arguments: Sequence[str]) -> None:
    define_workdir(options, "the folder of the trained run, as the training printed it")
    define_folder(
        options,
        "out",
        "the folder for marks and scores, new or of an earlier review (default: DIR/review/NAME)",
    )
    flags.DEFINE_integer("port", 0, "the port; 0 takes any that is free", 0, 65535, flag_values=options)


def _review(call: Invocation) -> None:
    options, workdir = call.options, call.workdir()
    if len(call.words) != 1:
        raise UserError("give the folder of the images to review; one folder")
    from daad_jax.reviewing.review_server import review

    review(workdir, call.words[0], options.out, options.port)


RUN_COMMANDS = {
    "calibrate": Command(
        "--workdir DIR FOLDER...",
        "Calibrates a finished run with more good images: threshold, units of the score, heat map. It "
        "prints what the threshold promises, and warns if scores have drifted. --list shows all calibrations "
        "of a run, --use ID goes back to one.",
        _define_calibrate,
        _calibrate,
        takes_words=True,
    ),
    "compare": Command(
        "RUN RUN... [--out FILE]",
        "Compares evaluated runs on one page: figures with their intervals, curves, and the images on which "
        "the verdicts differ. Nothing is scored: run evaluate first.",
        _define_compare,
        _compare,
        takes_words=True,
    ),
    "predict-on-ray": Command(
        "--workdir DIR IMAGE_OR_FOLDER... [--address=HOST:PORT] [--workers=8]",
        "Scores new images on a Ray cluster of one or many machines. If a machine is lost, another one "
        "scores its images. Writes Parquet files with a row for each image.",
        _define_predict_on_ray,
        _predict_on_ray,
        takes_words=True,
    ),
    "review": Command(
        "--workdir DIR FOLDER [--out DIR]",
        "Shows the images of a folder in the browser, likely mistakes first, to mark them as good or "
        "defective. Every mark is saved at once. The page can calibrate the run from the images that are "
        "marked as good.",
        _define_review,
        _review,
        takes_words=True,
    ),
    "serve": Command(
        "--workdir DIR | --export FILE [--port=8000]",
        "Answers images over HTTP with scores, verdicts and heat maps. The server listens on this machine "
        "only, unless --host says otherwise.",
        _define_serve,
        _serve,
    ),
}
