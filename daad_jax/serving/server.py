"""Serves a run over HTTP until a signal ends the process."""

import os
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np

from daad_jax.errors import UserError
from daad_jax.serving.scoring_queue import Judge
from daad_jax.terminal import say

DRAIN_SECONDS = 30  # after a signal, open requests have this time to end
MAX_CONNECTIONS = 512  # the server refuses further connections


def serve(detector: Judge, name: str, host: str, port: int, max_waiting: int) -> None:
    """Answers requests until SIGTERM or Ctrl-C. Requests that have begun are answered before the end.

    Args:
        detector: scores the images.
        name: the name of the run, for answers.
        host: the address to listen at.
        port: the port to listen at; 0 takes any free port.
        max_waiting: how many images may wait; further requests are refused with status 503.

    Raises:
        UserError: the extra `serve` is not installed, or the address cannot be used.
    """
    try:
        import uvicorn  # noqa: F401

        from daad_jax.serving.app import Limits, make_app
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; pip install 'daad_jax[serve]'") from error
    listener = listen(host, port)
    with listener:
        # Compile the program before the first request.
        start = time.perf_counter()
        data = detector.config.data
        blank = np.zeros((1, data.height, data.width, data.channels), data.prepared_type)
        list(detector.score_prepared(blank))
        say(f"compiled in {time.perf_counter() - start:.1f} s")
        # Listen, say where, and answer requests.
        app = make_app(detector, name, max_waiting, Limits(), os.cpu_count() or 1)
        listener.listen(max_waiting)  # before the address is printed, so that its reader can connect
        address, taken, *_ = listener.getsockname()
        shown = f"[{address}]" if ":" in address else address
        say(f"serving {name}, step {detector.step}, at http://{shown}:{taken} (POST images to /score)")
        answer_until_signal(app, listener, DRAIN_SECONDS, MAX_CONNECTIONS)


def answer_until_signal(app: Any, listener: socket.socket, drain_seconds: int, max_connections: int) -> None:
    """Answers requests until SIGTERM or Ctrl-C.

    Args:
        app: the application.
        listener: a socket that listens.
        drain_seconds: that requests have to end after a signal.
        max_connections: more are refused.
    """
    import uvicorn

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=drain_seconds,
        # Whoever asks could write any name and address into the headers of a proxy.
        server_header=False, proxy_headers=False, lifespan="on", ws="none", limit_concurrency=max_connections,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that is bound to the address. Raises UserError if the address cannot be used."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise UserError(
            f"--host={host} --port={port}: {error.strerror or error}; give another address or port"
        ) from error
    return listener


def name_of(workdir: Path) -> str:
    """Returns the run's name for clients: its folder without the path, which clients need not know."""
    return Path(os.path.abspath(workdir)).name
