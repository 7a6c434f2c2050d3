"""Loads `daad-jax serve` on this machine, beside `Detector.score` in a loop.

    python -m benchmarks serve --workdir RUN --images FOLDER

The server, the clients and the loop are processes of their own that take turns; nothing else should run.
At 1, 8 and 64 clients, each client sends one image after another. The loop scores 64 images in one call,
and, for the latency, one image in one call. Both decode the same files.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from daad_jax import files

CLIENTS = (1, 8, 64)
IMAGES = 64  # of a call in the loop, and of the files that the clients send
PAUSE_S = 0.3  # between turns: the threads of the process that ran before stop spinning in this time
Record = dict[str, Any]


@contextmanager
def serving(workdir: Path, options: Sequence[str]) -> Iterator[int]:
    """Starts the server, and yields its port. In the end it gets a SIGTERM."""
    command = [sys.executable, "-m", "daad_jax", "serve", f"--workdir={workdir}", "--port=0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            for line in server.stdout:
                if found := re.search(r"at http://127\.0\.0\.1:(\d+) ", line):
                    yield int(found[1])
                    return
            raise RuntimeError("the server ended before it was ready; its message stands above")
        finally:
            server.terminate()


async def _post_one_after_another(
    port: int, bodies: Sequence[bytes], seconds: float, latencies: list[float]
) -> None:
    """One client: sends image after image on one connection, and notes the seconds of each answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    end, number = time.perf_counter() + seconds, 0
    while (start := time.perf_counter()) < end:
        body = bodies[number % len(bodies)]
        writer.write(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        length = re.search(rb"content-length: (\d+)", head)
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
    with serving(workdir, options) as port:
        ours, theirs = context.Pipe()
        clients_process = context.Process(target=_run_clients, args=(theirs, port, images), daemon=True)
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
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks serve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", type=Path, required=True, help="the folder of a trained run")
    parser.add_argument("--images", type=Path, required=True, help="a folder of image files")
    parser.add_argument("--rounds", type=int, default=5, help="turns; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn; default: %(default)s")
    parser.add_argument("--docs", type=Path, help="the folder of performance.json, to store the results")
    given, options = parser.parse_known_args(arguments)
    paths = sorted(path for path in given.images.iterdir() if path.is_file())[:IMAGES]
    images = [path.read_bytes() for path in paths]
    rows = summarise(measure(given.workdir, images, given.rounds, given.seconds, options))
    for name, row in rows.items():
        who = "Detector.score in a loop" if name == "loop" else f"{name} client(s)"
        print(f"{who}: {row['rate']:.1f} images/s, p50 {row['p50']:.1f} ms, p99 {row['p99']:.1f} ms")
    share = rows[str(CLIENTS[-1])]["rate"] / rows["loop"]["rate"]
    late = rows["1"]["p99"] - rows["loop"]["p99"]
    print(f"{CLIENTS[-1]} clients: {share:.2f} times the loop's rate; p99 of one client {late:+.1f} ms")
    if given.docs:
        _store(given.docs, given.workdir.absolute().name, rows)


def _store(docs: Path, name: str, rows: Record) -> None:
    from benchmarks import performance_page

    stored = docs / "performance.json"
    records = json.loads(stored.read_text()) if stored.is_file() else {}
    versions = performance_page.versions() | {"load of the machine": f"{os.getloadavg()[0]:.0f}"}
    records.setdefault("serve", {})[name] = {"rows": rows, "versions": versions}
    files.write_text(stored, json.dumps(records, indent=1))
    performance_page.write(records, docs)
