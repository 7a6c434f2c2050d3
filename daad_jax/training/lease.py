"""Lets only one process write a run in a bucket, which has no locks: its writer renews a lease, an object."""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from daad_jax import buckets
from daad_jax.errors import UserError
from daad_jax.files import explain_write_errors
from daad_jax.terminal import say
from daad_jax.uploads import create

LEASE_S = 60.0  # a lease that nobody has renewed for so long is free
RENEWALS = 4  # in this time
# A lease that is older than this by the bucket's clock and ours is free without waiting.
MAX_CLOCK_DIFFERENCE_S = 300.0
POLL_S = 1.0
Holder = dict[str, Any]


def _this_machine() -> str:
    """Names this boot of this machine and its set of process numbers; "" if the system does not say it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _start_of(process: int) -> str:
    """Returns when a process of this machine began, in ticks since the boot; "" if it does not exist."""
    try:
        content = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    state, *fields = content.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]  # the 22nd field; a zombie has ended


@contextmanager
def holding(place: Path, busy_message: str, lease_s: float = LEASE_S) -> Iterator[None]:
    """Holds the lease at `place` in a bucket for the block, and renews it in a thread.

    The object is only ever replaced on the condition that nobody else has replaced it. A holder that has died
    on this machine is recognised at once. Otherwise the lease is watched until it is renewed, or until
    `lease_s` have passed without that, by the clock of this process.

    Raises:
        UserError: another process holds the lease; the message is `busy_message`.
            It is also raised if the bucket does not answer.
    """
    lease = _Lease(place, lease_s)
    with explain_write_errors(place, "look at the network and your rights there"), buckets.os_errors(place):
        lease.acquire(busy_message)
    ended = threading.Event()
    thread = threading.Thread(target=lease.renew_until, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(Exception):  # it ends by itself after `lease_s`
            lease.release()


def find_holder(place: Path) -> int:
    """Returns the random number of a lease's holder; 0 if nobody holds the lease. Raises OSError."""
    with buckets.os_errors(place):
        _, holder, _ = _read(place)
    try:
        return 0 if holder.get("released") else int(str(holder.get("token") or "0"), 16)
    except ValueError:
        return 0


def _read(place: Path) -> tuple[int, Holder, float]:
    """Reads the generation of a lease (0: no object), its holder, and its age in seconds.

    If another process replaces the object meanwhile, the holder does not matter: our next write fails.
    """
    if (found := buckets.read_small(place)) is None:
        return 0, {}, 0.0
    try:
        holder = json.loads(found.content)
    except ValueError:
        holder = {}
    age = (datetime.now(UTC) - found.updated).total_seconds()
    return found.generation, holder if isinstance(holder, dict) else {}, age


class _Lease:
    """A lease in a bucket, which this process takes, renews and gives back."""

    def __init__(self, place: Path, lease_s: float) -> None:
        self._place, self._lease_s = place, lease_s
        self._generation = 0
        self._holder: Holder = {
            "token": secrets.token_hex(8),
            "host": socket.gethostname(),
            "machine": _this_machine(),
            "process": os.getpid(),
            "started": _start_of(os.getpid()),
        }

    def acquire(self, busy_message: str) -> None:
        """Takes the lease once it is free or its holder has not renewed it for too long."""
        watched, since = -1, 0.0
        while True:
            generation, holder, age = _read(self._place)
            if holder.get("token") == self._holder["token"]:  # an answer was lost, and the client wrote twice
                self._generation = generation
                return
            is_free = not generation or bool(holder.get("released")) or self._is_dead(holder)
            if (
                is_free
                or age > self._lease_s + MAX_CLOCK_DIFFERENCE_S
                or (generation == watched and time.monotonic() - since > self._lease_s)
            ):
                if self._write(generation):
                    return
                continue  # another process was faster; read its lease
            if self._is_here(holder) or watched not in (-1, generation):
                raise UserError(busy_message)
            if watched == -1:
                say(
                    f"{self._place}: {holder.get('host', 'another machine')} has trained here; waiting up to "
                    f"{self._lease_s:.0f} s, to see whether it is alive"
                )
                watched, since = generation, time.monotonic()
            time.sleep(min(POLL_S, self._lease_s / 10))

    def _is_here(self, holder: Holder) -> bool:
        return bool(self._holder["machine"]) and holder.get("machine") == self._holder["machine"]

    def _is_dead(self, holder: Holder) -> bool:
        process = holder.get("process")
        return (
            self._is_here(holder) and isinstance(process, int) and _start_of(process) != holder.get("started")
        )

    def _write(self, generation: int, **more: Any) -> int:
        text = json.dumps({**self._holder, **more})
        if written := create(self._place, text, generation):
            self._generation = written
        return written

    def renew_until(self, ended: threading.Event) -> None:
        """Renews the lease until the event, or until another process has taken it."""
        pause = self._lease_s / RENEWALS
        while not ended.wait(pause):
            try:
                if self._write(self._generation):
                    continue
                generation, holder, _ = _read(self._place)
            except Exception:  # an error of the network; the lease is still valid for some time
                continue
            if holder.get("token") != self._holder["token"]:
                return  # the training sees it before it saves
            self._generation = generation  # an answer was lost, and the client wrote twice

    def release(self) -> None:
        self._write(self._generation, released=True)
