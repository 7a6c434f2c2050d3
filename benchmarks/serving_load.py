"""Loads `daad-jax serve` on this machine, beside `Detector.score` in a loop.

    python -m benchmarks serve --workdir RUN --images FOLDER

The server, the clients and the loop are processes of their own that take turns; nothing else should run.
At 1, 8 and 64 clients, each client sends one image after another. The loop scores 64 images in one call,
and, for the latency, one image in one call. Both decode the same files.
"""

import asyncio
import multiprocessing
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.run_options import find_images, make_parser, store
from benchmarks.served_run import serving

CLIENTS = (1, 8, 64)
IMAGES = 64  # of a call in the loop, and of the files that the clients send
PAUSE_S = 0.3  # between turns: the threads of the process that ran before stop spinning in this time
Record = dict[str, Any]


async def _post_one_after_another(
    port: int, bodies: Sequence[bytes], seconds: float, latencies: list[float]
) -> None:
    """One client: sends image after image on one connection, and notes the seconds of each answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    end, number = time.perf_counter() + seconds, 0
    while (start := time.perf_counter()) < end:
        body = bodies[number % len(bodies)]
        writer.write(
            b"POST /score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(answer.decode())
        length = re.search(rb"content-length: (\d+)", answer)
        await reader.readexactly(int(length[1]) if length else 0)
        latencies.append(time.perf_counter() - start)
        number += 1
    writer.close()


async def _load(port: int, bodies: Sequence[bytes], clients: int, seconds: float) -> Record:
    latencies: list[float] = []
    start = time.perf_counter()
    shifted = [[*bodies[i % len(bodies) :], *bodies[: i % len(bodies)]] for i in range(clients)]
    await asyncio.gather(*(_post_one_after_another(port, each, seconds, latencies) for each in shifted))
    return {"rate": len(latencies) / (time.perf_counter() - start), "latencies": latencies}


def _run_clients(connection: Any, port: int, bodies: Sequence[bytes]) -> None:
    """Runs in the clients' process."""
    while order := connection.recv():
        connection.send(asyncio.run(_load(port, bodies, *order)))


def measure(
    workdir: Path, images: Sequence[bytes], rounds: int, seconds: float, options: Sequence[str]
) -> Record:
    """Lets the server and the loop take turns.

    Args:
        workdir: the folder of the run.
        images: contents of image files.
        rounds: how many turns each has.
        seconds: how long the server is measured at each number of clients.
        options: further options of the server.

    Returns:
        By number of clients `rate`, images a second in each round, and `latencies`, the seconds of every
        request. Under "loop" the same of `Detector.score`: `rate` of `IMAGES` at once, `latencies` of one.
    """
    from daad_jax.detection.detector import Detector

    detector = Detector.load(workdir)
    record: Record = {str(clients): {"rate": [], "latencies": []} for clients in CLIENTS}
    record["loop"] = {"rate": [], "latencies": []}
    context = multiprocessing.get_context("spawn")
    with serving(workdir, options) as server:
        ours, theirs = context.Pipe()
        clients_process = context.Process(
            target=_run_clients, args=(theirs, server.port, images), daemon=True
        )
        clients_process.start()

        def ask_server(clients: int, seconds: float) -> Record:
            time.sleep(PAUSE_S)
            ours.send((clients, seconds))
            return ours.recv()  # type: ignore[no-any-return]

        detector.score(images)
        ask_server(CLIENTS[-1], 1.0)
        for _ in range(rounds):
            for clients in CLIENTS:
                found = ask_server(clients, seconds)
                record[str(clients)]["rate"].append(found["rate"])
                record[str(clients)]["latencies"] += found["latencies"]
                time.sleep(PAUSE_S)
                _run_loop(detector, images, record["loop"], seconds, at_once=IMAGES if clients > 1 else 1)
        ours.send(None)
        clients_process.join()
    return record


def _run_loop(detector: Any, images: Sequence[bytes], record: Record, seconds: float, at_once: int) -> None:
    """Scores for so many seconds: one image a call, for the latency, or many, for the rate."""
    start, calls = time.perf_counter(), 0
    while (begin := time.perf_counter()) < start + seconds:
        detector.score([images[(calls + i) % len(images)] for i in range(at_once)])
        if at_once == 1:
            record["latencies"].append(time.perf_counter() - begin)
        calls += 1
    if at_once > 1:
        record["rate"].append(calls * at_once / (time.perf_counter() - start))


def summarise(record: Record) -> dict[str, dict[str, float]]:
    """The median rate, p50 and p99 in milliseconds, by number of clients and for the loop."""
    return {
        name: {
            "rate": float(np.median(row["rate"])),
            "p50": 1000 * float(np.percentile(row["latencies"], 50)),
            "p99": 1000 * float(np.percentile(row["latencies"], 99)),
        }
        for name, row in record.items()
    }


def main(arguments: list[str]) -> None:
    parser = make_parser("serve", __doc__, rounds=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn; default: %(default)s")
    given, options = parser.parse_known_args(arguments)
    images = [path.read_bytes() for path in find_images(given.images)[:IMAGES]]
    rows = summarise(measure(given.workdir, images, given.rounds, given.seconds, options))
    for name, row in rows.items():
        who = "Detector.score in a loop" if name == "loop" else f"{name} client(s)"
        print(f"{who}: {row['rate']:.1f} images/s, p50 {row['p50']:.1f} ms, p99 {row['p99']:.1f} ms")
    share = rows[str(CLIENTS[-1])]["rate"] / rows["loop"]["rate"]
    late = rows["1"]["p99"] - rows["loop"]["p99"]
    print(f"{CLIENTS[-1]} clients: {share:.2f} times the loop's rate; p99 of one client {late:+.1f} ms")
    if given.docs:
        store(given.docs, "serve", given.workdir, rows)
