"""Shows the review of a folder in the browser, until a signal ends the process."""

import itertools
import os
from pathlib import Path

from daad_jax.buckets import is_in_bucket, open_place
from daad_jax.errors import UserError
from daad_jax.files import exclusive, explain_write_errors
from daad_jax.terminal import say
from daad_jax.training import calibrations

HOST = "127.0.0.1"
LABELS_FILE, STORE_FILE, LOCK_FILE = "labels.csv", "scores.sqlite", ".lock"
FOLDER_FILE = "folder.txt"  # which folder was reviewed last
MAX_PATH_BYTES = 2**16
REMEDY = "give another --out"
MAX_CONNECTIONS = 256
DRAIN_SECONDS = 5  # after a signal, open requests have this time to end


def review(workdir: Path, folder: str, out: str | None, port: int) -> None:
    """Serves the page of a review until SIGTERM or Ctrl-C.

    Args:
        workdir: the folder of the run.
        folder: the folder of the images.
        out: the folder for marks and scores; None: see `find_place`.
        port: the port to listen at; 0 takes any free port.

    Raises:
        UserError: the extra `serve` is not installed; the folder has no images; another review uses `out`;
            or `out` or the port cannot be used.
    """
    try:
        import uvicorn  # noqa: F401

        from daad_jax.reviewing.gate import make_token
        from daad_jax.reviewing.routes import make_app
        from daad_jax.serving.server import answer_until_signal, listen
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; pip install 'daad_jax[serve]'") from error
    from daad_jax.reviewing.folder_images import list_images
    from daad_jax.reviewing.marks import Marks
    from daad_jax.reviewing.review import Review
    from daad_jax.reviewing.run_in_use import store_key
    from daad_jax.reviewing.score_store import ScoreStore

    # Prepare the folder for marks and scores.
    if is_in_bucket(out or workdir):
        raise UserError(
            f"{out or workdir / 'review'}: marks cannot be appended in a bucket; give a folder of this "
            "machine as --out"
        )
    images_folder = open_place(folder)
    run = calibrations.load(workdir)
    place = Path(out) if out else find_place(workdir, folder)
    found = list_images(images_folder, run.config.data, place)
    with explain_write_errors(place, REMEDY):
        place.mkdir(parents=True, exist_ok=True)
    # Open the review, and serve its page.
    busy = f"{place}: another review writes here; use its page, or end it first"
    with exclusive(place / LOCK_FILE, busy), listen(HOST, port) as listener:
        with explain_write_errors(place, REMEDY):
            (place / FOLDER_FILE).write_bytes(os.fsencode(_absolute(folder)))
        marks = Marks(place / LABELS_FILE)
        store = ScoreStore(place / STORE_FILE, store_key(run))
        session = Review(workdir, images_folder, run, found, store, marks)
        token, taken = make_token(), listener.getsockname()[1]
        app = make_app(session, token, f"daad_review_{taken}", os.cpu_count() or 1)
        listener.listen(MAX_CONNECTIONS)  # before the address is printed, so that its reader can connect
        say(f"{len(found.images)} images; marks are written to {place / LABELS_FILE}")
        say("only who has the next address gets in; Ctrl-C ends the review")
        say(f"review at http://{HOST}:{taken}/?token={token}")
        answer_until_signal(app, listener, DRAIN_SECONDS, MAX_CONNECTIONS)


def find_place(workdir: Path, folder: str) -> Path:
    """Returns the folder for the marks.

    It is `review/NAME` in the workdir. If another folder of this name was reviewed there, it is the first of
    `review/NAME-2` and so on without such a review.
    """
    name = Path(_absolute(folder)).name or "images"
    for number in itertools.count(1):
        place = workdir / "review" / (name if number == 1 else f"{name}-{number}")
        try:
            with (place / FOLDER_FILE).open("rb") as file:
                reviewed = os.fsdecode(file.read(MAX_PATH_BYTES))
        except OSError:  # new, or of an older version
            break
        if reviewed == _absolute(folder):
            break
        say(f"{place} has the marks of {reviewed}; if you have only moved that folder, give --out={place}")
    return place


def _absolute(folder: str) -> str:
    return folder.rstrip("/") if is_in_bucket(folder) else os.path.abspath(folder)
