"""The web application: images in, JSON out."""

import asyncio
import base64
import io
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from daad_jax.detection.detections import Detections
from daad_jax.detection.overlay import draw_overlay
from daad_jax.errors import UserError
from daad_jax.serving.description import describe_api, make_page
from daad_jax.serving.meters import Meters
from daad_jax.serving.scoring_queue import Judge, Opened, QueueFullError, ScoringQueue

PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'"
HEATS = ("none", "overlay", "map")


class Limits(NamedTuple):
    """Limits of requests.

    Attributes:
        body: the largest body of a request, in bytes.
        heat: the largest heat maps of an answer together, in bytes of base64.
        all_bodies: the bodies of all requests that are read or scored at one time, and the heat maps of their
            answers, in bytes.
        images: the most images of a request.
        seconds: a client must send its body in this time. Scoring then has the same time once more.
    """

    body: int = 64 * 2**20
    heat: int = 256 * 2**20
    all_bodies: int = 512 * 2**20
    images: int = 64
    seconds: float = 60.0


class Run(NamedTuple):
    """Facts about the run that every answer repeats.

    Attributes:
        name: the name of the run's folder.
        step: the step of the checkpoint.
        calibration: the id of the calibration that set the threshold.
        threshold: an image with a higher score is anomalous.
    """

    name: str
    step: int
    calibration: str
    threshold: float


class Reservation:
    """Counts the bytes that one request takes.

    Args:
        service: counts the bytes of all requests.
    """

    def __init__(self, service: "Service") -> None:
        self._service, self._bytes = service, 0

    def add(self, count: int) -> None:
        """Takes more bytes. Raises HTTPException (503) if all requests together take too many."""
        self._bytes += count
        self._service.reserve(count)

    def release(self) -> None:
        self._service.reserve(-self._bytes)


class Service:
    """Answers the requests of every route.

    Args:
        run: the facts that every answer repeats.
        queue: scores the images.
        pool: the threads that decode images and draw heat maps.
        limits: what a request may take.
        meters: count images and requests.
    """

    def __init__(
        self, run: Run, queue: ScoringQueue, pool: ThreadPoolExecutor, limits: Limits, meters: Meters
    ) -> None:
        self._run, self._queue, self._pool, self._limits, self._meters = run, queue, pool, limits, meters
        self._bytes = 0  # the size of all bodies that are read or scored now

    async def score(self, request: Request) -> Response:
        """Scores the images of a request. `description.describe_api` describes requests and answers.

        Raises:
            HTTPException: the request cannot be understood (400), is too large (413), or finds the server
                busy (503).
        """
        started = time.perf_counter()
        heat = request.query_params.get("heat", "none")
        if heat not in HEATS:
            raise HTTPException(400, f"heat={heat[:40]!r}: must be one of {', '.join(HEATS)}")
        reserved = Reservation(self)
        try:
            # Read the body, and count its bytes while they arrive.
            async with asyncio.timeout(self._limits.seconds):
                body = bytearray()
                async for chunk in request.stream():
                    reserved.add(len(chunk))
                    body += chunk
                    if len(body) > self._limits.body:
                        raise HTTPException(413, f"the body has over {self._limits.body} bytes")
            # Score the images.
            images = await self._images_of(request, bytes(body))
            async with asyncio.timeout(self._limits.seconds):
                entries = await self._judge(images, heat, reserved)
        except TimeoutError:
            raise HTTPException(
                503, f"there was no answer within {self._limits.seconds:g} seconds", {"Retry-After": "5"}
            ) from None
        finally:
            reserved.release()
        self._meters.answered(time.perf_counter() - started)
        status = 422 if any("error" in entry for entry in entries) else 200
        return JSONResponse({**self._run._asdict(), "images": entries}, status)

    def reserve(self, count: int) -> None:
        """Counts bytes; see `Reservation`."""
        self._bytes += count
        if count > 0 and self._bytes > self._limits.all_bodies:
            raise HTTPException(503, "too many bytes wait to be scored; try again", {"Retry-After": "1"})

    async def _images_of(self, request: Request, body: bytes) -> list[tuple[str, bytes]]:
        """Returns (name, content) of each image of a body: one image, or the files of a form."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "multipart/form-data":
            if not body:
                raise HTTPException(400, "the body is empty; send the bytes of an image file")
            return [("image", body)]
        count = self._limits.images

        async def once() -> AsyncGenerator[bytes, None]:
            yield body

        parser = MultiPartParser(request.headers, once(), max_files=count, max_fields=0)
        try:
            form = await parser.parse()
        except (MultiPartException, KeyError) as error:
            what = getattr(error, "message", "it has no boundary")
            raise HTTPException(400, f"the form cannot be used: {what}") from error
        try:
            files = [value for _, value in form.multi_items() if not isinstance(value, str)]
            if not files:
                raise HTTPException(400, "the form has no file; send each image as a file")
            return [(file.filename or "image", await file.read()) for file in files]
        finally:
            await form.close()

    async def _judge(
        self, images: Sequence[tuple[str, bytes]], heat: str, reserved: Reservation
    ) -> list[dict[str, Any]]:
        """Returns the entry of each image in the answer."""
        # Decode all images, and queue the usable ones.
        opened = await asyncio.gather(
            *(self._in_thread(self._open, name, content, heat != "none") for name, content in images)
        )
        usable = [image for image in opened if isinstance(image, Opened)]
        try:
            futures = iter(self._queue.submit(usable))
        except QueueFullError:
            self._meters.refused()
            raise HTTPException(503, "too many images wait; try again", {"Retry-After": "1"}) from None
        waiting = deque(
            (name, next(futures) if isinstance(image, Opened) else image, image)
            for (name, _), image in zip(images, opened)
        )
        # Wait for the verdicts, one image after another. A described result is dropped, because heat maps of
        # images in tiles are large.
        entries, heat_bytes = [], 0
        try:
            while waiting:
                entry = await self._entry_of(*waiting[0], heat)
                waiting.popleft()
                entries.append(entry)
                size = len(entry["heat"]["base64"]) if "heat" in entry else 0
                reserved.add(size)
                heat_bytes += size
                if heat_bytes > self._limits.heat:
                    raise HTTPException(
                        413, f"the heat maps have over {self._limits.heat} bytes; send fewer images at once"
                    )
        finally:
            for _, future, _ in waiting:
                if isinstance(future, Future):
                    future.cancel()
        return entries

    async def _entry_of(
        self, name: str, future: "Future[Detections] | UserError", image: Any, heat: str
    ) -> dict[str, Any]:
        """Waits for the verdict of an image, and returns its entry in the answer."""
        try:
            if isinstance(future, UserError):
                raise future
            found = await asyncio.wrap_future(future)
        except UserError as error:
            return self._refuse(name, error)
        entry = self._describe(name, found, image)
        if heat != "none":
            entry["heat"] = await self._in_thread(encode_heat, found, heat)
        return entry

    def _in_thread(self, function: Callable[..., Any], *arguments: object) -> "asyncio.Future[Any]":
        """Calls a function in a thread that decodes images and draws heat maps."""
        return asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def _open(self, name: str, content: bytes, needs_heat: bool) -> Opened | UserError:
        try:
            return self._queue.open(content, name, needs_heat)
        except UserError as error:
            return UserError(str(error))  # a new error, because a traceback keeps the image in memory

    def _refuse(self, name: str, error: UserError) -> dict[str, Any]:
        self._meters.unusable()
        return {"name": name, "error": str(error)}

    def _describe(self, name: str, found: Detections, image: Any) -> dict[str, Any]:
        score, is_anomalous = float(found.scores[0]), bool(found.anomalous[0])
        self._meters.scored(score, is_anomalous)
        distances = {
            "reconstruction": float(found.reconstruction[0]),
            "alignment": float(found.alignment[0]),
        }
        return {
            "name": name,
            "score": score,
            "anomalous": is_anomalous,
            "p_value": float(found.p_values[0]),
            **{key: value for key, value in distances.items() if not math.isnan(value)},
            "clipped": image.clipped,
        }

    async def health(self, request: Request) -> Response:
        """Answers "ready". The server compiles its program before it listens, so it can always score."""
        return JSONResponse({"status": "ready", **self._run._asdict()})

    async def metrics(self, request: Request) -> Response:
        """Returns the meters in the text format of Prometheus."""
        return Response(*self._meters.render())

    async def describe(self, request: Request) -> Response:
        """Returns the OpenAPI description."""
        return JSONResponse(describe_api(self._limits.images, self._limits.body))

    async def page(self, request: Request) -> Response:
        """Returns an HTML page that explains the routes and has a form to try one image."""
        api = describe_api(self._limits.images, self._limits.body)
        page = make_page(self._run._asdict(), api, str(request.base_url))
        return HTMLResponse(page, headers={"Content-Security-Policy": PAGE_POLICY})


def encode_heat(found: Detections, heat: str) -> dict[str, Any]:
    """Returns the heat map of one image in base64.

    Args:
        found: the detections of one image.
        heat: "overlay" draws the map over the image, as PNG. "map" gives the values, float32 `[H, W]`.
    """
    values = np.asarray(found.heat[0])
    height, width = values.shape
    if heat == "map":
        content, kind = values.astype("<f4").tobytes(), "float32, little-endian, row by row"
    else:
        file = io.BytesIO()
        Image.fromarray(draw_overlay(np.asarray(found.images[0]), values)).save(file, "PNG")
        content, kind = file.getvalue(), "image/png"
    return {"height": height, "width": width, "type": kind, "base64": base64.b64encode(content).decode()}


def make_app(detector: Judge, name: str, max_waiting: int, limits: Limits, threads: int) -> Starlette:
    """Returns the web application.

    Args:
        detector: scores the images.
        name: the name of the run, for answers.
        max_waiting: how many images may wait. A request has no more images.
        limits: what a request may take.
        threads: the number of threads that decode images and draw heat maps.
    """
    queue = ScoringQueue(detector, max_waiting)
    limits = limits._replace(images=min(limits.images, max_waiting))  # more could never be scored
    pool = ThreadPoolExecutor(threads, "decoding")
    run = Run(name, detector.step, detector.calibration_label.id, detector.threshold)
    meters = Meters(detector.calibration, detector.threshold, lambda: queue.waiting)
    service = Service(run, queue, pool, limits, meters)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        pool.shutdown()
        queue.close()

    async def in_one_line(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            return JSONResponse({"error": error.detail}, error.status_code, error.headers)
        return JSONResponse({"error": "a mistake of ours; the server's log says more"}, 500)

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=400)  # the client has gone, so nobody reads this answer

    return Starlette(
        routes=[
            Route("/", service.page),
            Route("/score", service.score, methods=["POST"]),
            Route("/healthz", service.health),
            Route("/metrics", service.metrics),
            Route("/openapi.json", service.describe),
        ],
        exception_handlers={HTTPException: in_one_line, ClientDisconnect: gone, Exception: in_one_line},
        lifespan=lifespan,
    )
