"""The web application of a review: answers the requests of the page."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from daad_jax.errors import UserError
from daad_jax.escaping import for_page
from daad_jax.reviewing.folder_images import ReviewImage
from daad_jax.reviewing.gate import Gate
from daad_jax.reviewing.marks import MARKS
from daad_jax.reviewing.review import Review
from daad_jax.reviewing.shown_pictures import Shown
from daad_jax.scoring.false_alarms import CONFIDENCE

API_THREADS = 2
CONFIDENCES = {"": None, f"{CONFIDENCE:g}": CONFIDENCE}  # by the text that the page sends
MAX_BODY = 4096  # bytes
MAX_NUMBER = 10  # digits
PAGE_FOLDER = Path(__file__).with_name("page")
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
KEEP_PICTURES = "private, max-age=3600"  # safe, since a picture's address names session and calibration
Made = TypeVar("Made")


class Routes:
    """Answers requests about a review.

    Args:
        review: the review.
        pool: the threads for all work without pictures, so that a mark never waits for a picture.
        picture_pool: the threads that decode and draw.
    """

    def __init__(self, review: Review, pool: ThreadPoolExecutor, picture_pool: ThreadPoolExecutor) -> None:
        self._review, self._pool, self._picture_pool = review, pool, picture_pool
        self._model = asyncio.Lock()  # only one image at a time goes through the model
        self._files = {path.name: path.read_bytes() for path in PAGE_FOLDER.iterdir() if path.suffix in KINDS}

    async def _in_thread(self, work: Callable[..., Made], *arguments: Any) -> Made:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    async def page(self, request: Request) -> Response:
        return self._file("review.html")

    async def file(self, request: Request) -> Response:
        """Sends a file of the page itself."""
        return self._file(request.path_params["name"])

    def _file(self, name: str) -> Response:
        if name not in self._files:
            raise HTTPException(404, "there is no such page")
        return Response(self._files[name], media_type=KINDS[Path(name).suffix])

    async def review(self, request: Request) -> Response:
        return _json(await self._in_thread(self._review.describe))

    async def progress(self, request: Request) -> Response:
        return _json(await self._in_thread(self._review.progress, _read_number(request, "marks")))

    async def images(self, request: Request) -> Response:
        return _json(await self._in_thread(self._review.rows, _read_number(request, "since")))

    async def mark(self, request: Request) -> Response:
        """Marks an image. The answer comes after the mark is on the disk."""
        body = await _read_body(request, "id", "mark", "shown")
        for key in ("mark", "shown"):
            if body[key] not in MARKS:
                raise HTTPException(400, f"{key}: must be one of {', '.join(MARKS)}")
        try:
            marked = await self._in_thread(self._review.mark, body["id"], body["mark"], body["shown"])
        except KeyError:
            raise HTTPException(404, "there is no such image") from None
        return _json(marked)

    async def undo(self, request: Request) -> Response:
        """Takes the last mark back. The answer is empty if there is none."""
        body = await _read_body(request, "marks")
        return _json(await self._in_thread(self._review.undo, _parse_number("marks", body["marks"])))

    async def recalibrate(self, request: Request) -> Response:
        """Calibrates with the images that are marked as good."""
        body = await _read_body(request, "confidence")
        if body["confidence"] not in CONFIDENCES:
            raise HTTPException(400, f"confidence: must be one of {list(CONFIDENCES)}")
        confidence = CONFIDENCES[body["confidence"]]
        return _json(await self._in_thread(self._review.recalibrate, confidence))

    async def use(self, request: Request) -> Response:
        """Puts another calibration into use."""
        body = await _read_body(request, "id")
        return _json(await self._in_thread(self._review.use, body["id"]))

    async def thumbnail(self, request: Request) -> Response:
        return await self._picture(request, self._review.pictures.thumbnail)

    async def whole(self, request: Request) -> Response:
        return await self._picture(request, self._review.pictures.whole)

    async def heat(self, request: Request) -> Response:
        return await self._picture_of_model(request, self._review.pictures.heat)

    async def reconstruction(self, request: Request) -> Response:
        return await self._picture_of_model(request, self._review.pictures.reconstruction)

    async def _picture_of_model(
        self, request: Request, make: Callable[[ReviewImage], Shown | None]
    ) -> Response:
        async with self._model:
            if await request.is_disconnected():  # the user has gone on to another image
                return Response(status_code=400)
            return await self._picture(request, make)

    async def _picture(self, request: Request, make: Callable[[ReviewImage], Shown | None]) -> Response:
        try:
            image = self._review.find(request.path_params["id"])
        except KeyError:
            raise HTTPException(404, "there is no such image") from None
        shown = await asyncio.get_running_loop().run_in_executor(self._picture_pool, make, image)
        if shown is None:
            raise HTTPException(404, "there is no such picture of this image")
        return Response(shown.content, media_type=shown.kind, headers={"Cache-Control": KEEP_PICTURES})

    async def verdicts(self, request: Request) -> Response:
        """Sends the verdicts of all images at a threshold and by a calibration, as a CSV file."""
        try:
            threshold = float(request.query_params.get("threshold", ""))
        except ValueError:
            threshold = float("nan")
        if not abs(threshold) < float("inf"):
            raise HTTPException(400, "threshold: must be a number")
        calibration = request.query_params.get("calibration", "")
        table = await self._in_thread(lambda: "".join(self._review.verdicts(threshold, calibration)))
        headers = {"Content-Disposition": 'attachment; filename="verdicts.csv"'}
        return Response(table, media_type="text/csv; charset=utf-8", headers=headers)


def _read_number(request: Request, key: str) -> int:
    """A number of the address; 0 if it is not there. Raises HTTPException."""
    return _parse_number(key, request.query_params.get(key, "0"))


def _parse_number(key: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_NUMBER):
        raise HTTPException(400, f"{key}: must be a whole number")
    return int(text)


async def _read_body(request: Request, *keys: str) -> dict[str, str]:
    """Reads a JSON object with exactly these keys, whose values are texts. Raises HTTPException."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "the body must be JSON")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"the body has over {MAX_BODY} bytes")
    try:
        found = json.loads(bytes(body))
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is no JSON") from None
    is_right = isinstance(found, dict) and set(found) == set(keys)
    if not is_right or not all(isinstance(value, str) for value in found.values()):
        raise HTTPException(400, f"the body must be a JSON object of texts with the keys {list(keys)}")
    return found


def _json(content: Any, status: int = 200) -> Response:
    # A file's name may hold bytes that are no text. UTF-8 cannot carry them, JSON's ASCII escapes can.
    return Response(json.dumps(content, allow_nan=False), status, media_type="application/json")


async def _refuse(request: Request, error: Exception) -> Response:
    """Answers a request that went wrong with one line, in JSON."""
    if isinstance(error, HTTPException):
        return _json({"error": error.detail}, error.status_code)
    if isinstance(error, ClientDisconnect):
        return Response(status_code=400)  # the client has gone, so nobody reads this answer
    if isinstance(error, UserError):
        return _json({"error": for_page(str(error))}, 409)
    return _json({"error": "a mistake of ours; the terminal of the review says more"}, 500)


def make_app(review: Review, token: str, cookie: str, threads: int) -> Gate:
    """Returns the application.

    Args:
        review: the review. It starts and ends with the application.
        token: only requests with this token are answered, see `Gate`.
        cookie: the name of the cookie that holds the token.
        threads: the number of threads that decode images and draw.
    """
    pool, picture_pool = ThreadPoolExecutor(API_THREADS, "review"), ThreadPoolExecutor(threads, "pictures")
    routes = Routes(review, pool, picture_pool)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        review.start()
        pool.submit(review.describe)  # imports SciPy, so that the page need not wait for it
        yield
        for each in (picture_pool, pool):
            each.shutdown(cancel_futures=True)
        review.close()

    app = Starlette(
        routes=[
            Route("/", routes.page),
            Route("/page/{name}", routes.file),
            Route("/api/review", routes.review),
            Route("/api/progress", routes.progress),
            Route("/api/images", routes.images),
            Route("/api/mark", routes.mark, methods=["POST"]),
            Route("/api/undo", routes.undo, methods=["POST"]),
            Route("/api/recalibrate", routes.recalibrate, methods=["POST"]),
            Route("/api/use", routes.use, methods=["POST"]),
            Route("/thumbnail/{id}", routes.thumbnail),
            Route("/image/{id}", routes.whole),
            Route("/heat/{id}", routes.heat),
            Route("/reconstruction/{id}", routes.reconstruction),
            Route("/verdicts.csv", routes.verdicts),
        ],
        exception_handlers={
            HTTPException: _refuse, ClientDisconnect: _refuse, UserError: _refuse, Exception: _refuse,
        },
        lifespan=lifespan,
    )  # fmt: skip
    return Gate(app, token, cookie)
