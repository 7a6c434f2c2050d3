"""Serves a run over HTTP until a signal ends the process."""

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from daad_jax.errors import UserError
from daad_jax.serving.scoring_queue import Judge
from daad_jax.terminal import say

DRAIN_SECONDS = 30  # after a signal, open requests have this time to end
MAX_CONNECTIONS = 512  # the server refuses further connections


def serve(
    detector: Judge, name: str, host: str, port: int, max_waiting: int, hosts: Sequence[str] = ()
) -> None:
    """Answers requests until SIGTERM or Ctrl-C. Requests that have begun are answered before the end.

    Args:
        detector: scores the images.
        name: the name of the run, for answers.
        host: the address to listen at.
        port: the port to listen at; 0 takes any free port.
        max_waiting: how many images may wait; further requests are refused with status 503.
        hosts: further names of the server, see `host_check.find_trusted`.

    Raises:
        UserError: the extra `serve` is not installed, the address cannot be used, or `hosts` has no names.
    """
    try:
        import uvicorn  # noqa: F401

        from daad_jax.serving.app import Limits, make_app
        from daad_jax.serving.host_check import HostCheck, find_trusted
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; pip install 'daad_jax[serve]'") from error
    listener = listen(host, port)
    with listener:
        address, taken, *_ = listener.getsockname()
        trusted = find_trusted(host, address, hosts)
        # Compile the program before the first request.
        start = time.perf_counter()
        data = detector.config.data
        blank = np.zeros((1, data.height, data.width, data.channels), data.prepared_type)
        list(detector.score_prepared(blank))
        say(f"compiled in {time.perf_counter() - start:.1f} s")
        # Listen, say where, and answer requests.
        app = HostCheck(make_app(detector, name, max_waiting, Limits(), os.cpu_count() or 1), trusted)
        listener.listen(max_waiting)  # before the address is printed, so that its reader can connect
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
