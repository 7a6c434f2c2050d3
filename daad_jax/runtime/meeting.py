"""Brings the processes of a run together before JAX starts, and says for whom it waits.

Process 0 listens at the coordinator's address until all others have come. The connections stay open: as long
as a process lives, its connection does. This file imports no JAX.
"""

import contextlib
import errno
import importlib.metadata
import select
import socket
import time
from dataclasses import dataclass

from daad_jax.errors import UserError
from daad_jax.terminal import say

GREETING = "daad-jax"
TIMEOUT_S = 300.0
NEWS_S = 20.0  # between two lines about the waiting
RETRY_S = 0.3
ANSWER_S = 2.0  # how long a program that connects may take to say who it is
MAX_LINE = 256  # bytes; what comes from the network is not trusted
COMPARED_PACKAGES = ("daad_jax", "jax", "jaxlib", "flax", "optax", "numpy")  # all processes need the same
SAME_REMEDY = "start all processes again with the same options and the same versions"


@dataclass(frozen=True)
class Cluster:
    """The address of process 0, how many processes there are, and the number of this one."""

    host: str
    port: int
    count: int
    index: int

    @classmethod
    def parse(cls, address: str, count: int, index: int) -> "Cluster":
        """A cluster from the options of a command.

        Raises:
            UserError: the address is not HOST:PORT, or there is no such process.
        """
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise UserError(
                f"--coordinator={address}: must be HOST:PORT of process 0, for instance node7:9876"
            )
        if index >= count:
            raise UserError(
                f"--process_id={index}: with --num_processes={count} the numbers are 0 to {count - 1}"
            )
        return cls(host.strip("[]"), int(port), count, index)

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"{self.host}:{self.port}"


class _Patience:
    """Says every few seconds for whom this process waits, and when it stops to wait."""

    def __init__(self, cluster: Cluster, timeout_s: float) -> None:
        self._cluster, self._timeout_s = cluster, timeout_s
        self._start, self._due = time.monotonic(), NEWS_S

    def wait_for(self, missing: list[int]) -> None:
        """Raises UserError if the processes `missing` have not come in time."""
        cluster, waited = self._cluster, time.monotonic() - self._start
        if waited > self._timeout_s:
            numbers = ", ".join(map(str, missing))
            raise UserError(
                f"process {numbers} of {cluster.count} did not come to {cluster.address} in "
                f"{self._timeout_s:.0f} s; start all processes with the same --coordinator and "
                "--num_processes, and look whether a firewall closes this port"
            )
        if waited > self._due:
            self._due = waited + NEWS_S
            whom = "process 0" if cluster.index else f"{len(missing)} of {cluster.count} processes"
            say(f"waiting for {whom} at {cluster.address} ({waited:.0f} s of {self._timeout_s:.0f})")


def meet(cluster: Cluster, timeout_s: float = TIMEOUT_S) -> dict[int, socket.socket]:
    """Waits until all processes are there.

    Returns:
        An open connection by the number of the process at its other end: of process 0 to all others, of each
        other one to process 0.

    Raises:
        UserError: the port is taken, a process does not come, or the processes have different options or
            versions.
    """
    return _gather(cluster, timeout_s) if cluster.index == 0 else {0: _join(cluster, timeout_s)}


def find_versions() -> list[str]:
    """The installed packages that all processes of a run need in the same version, as "jax-0.8.0"."""
    versions = []
    for name in COMPARED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name}-{importlib.metadata.version(name)}")
    return versions


def _gather(cluster: Cluster, timeout_s: float) -> dict[int, socket.socket]:
    patience, links = _Patience(cluster, timeout_s), dict[int, socket.socket]()
    came = set[int]()
    with _listen(cluster) as listener:
        try:
            while missing := [i for i in range(1, cluster.count) if i not in links]:
                # A process that came has lost its patience because of those that never came.
                patience.wait_for([i for i in missing if i not in came] or missing)
                ready, _, _ = select.select([listener, *links.values()], [], [], RETRY_S)
                for index in [i for i, link in links.items() if link in ready]:
                    links.pop(index).close()  # it said more than its greeting, or has ended
                if listener in ready:
                    _admit(listener, cluster, links)
                    came |= set(links)
        except BaseException:
            for link in links.values():
                link.close()
            raise
    for link in links.values():
        with contextlib.suppress(OSError):  # who has ended since is noticed by its watcher
            link.sendall(b"go\n")
    return links


def _listen(cluster: Cluster) -> socket.socket:
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", cluster.port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", cluster.port))
    except OSError as error:
        is_taken = error.errno == errno.EADDRINUSE
        reason = "another program uses this port" if is_taken else str(error.strerror)
        raise UserError(
            f"--coordinator={cluster.address}: {reason}; give all processes another port"
        ) from error


def _admit(listener: socket.socket, cluster: Cluster, links: dict[int, socket.socket]) -> None:
    """Takes a connection if it is of a process of this run.

    Raises:
        UserError: the process was started with another number of processes, or has other versions.
    """
    link, _ = listener.accept()
    link.settimeout(ANSWER_S)
    try:
        name, count, index, *versions = read_line(link).split(" ")
        if name != GREETING or not (count.isdecimal() and index.isdecimal()):
            raise ValueError
    except (OSError, ValueError):  # a scanner, or a browser
        link.close()
        return
    problem = ""
    if int(count) != cluster.count:
        problem = f"process {index} has --num_processes={count}, and process 0 has {cluster.count}"
    elif int(index) in links or not 0 < int(index) < cluster.count:
        problem = f"--process_id={index} was given to two processes"
    elif versions != (own := find_versions()):
        others, ours = " ".join(sorted({*versions} - {*own})), " ".join(sorted({*own} - {*versions}))
        problem = f"process {index} has {others or 'fewer packages'}, and process 0 has {ours or 'fewer'}"
    if problem:
        with contextlib.suppress(OSError):
            link.sendall(f"no {problem}\n".encode())
        link.close()
        raise UserError(f"--distributed: {problem}; {SAME_REMEDY}")
    links[int(index)] = link


def _join(cluster: Cluster, timeout_s: float) -> socket.socket:
    patience = _Patience(cluster, timeout_s)
    while True:
        patience.wait_for([0])
        try:
            link = socket.create_connection((cluster.host, cluster.port), ANSWER_S)
        except socket.gaierror as error:
            raise UserError(
                f"--coordinator={cluster.address}: no such host ({error.strerror}); give the name or the "
                "address of the machine of process 0"
            ) from error
        except OSError:  # nobody listens there yet
            time.sleep(RETRY_S)
            continue
        try:
            greeting = [GREETING, str(cluster.count), str(cluster.index), *find_versions()]
            link.sendall(f"{' '.join(greeting)}\n".encode())
            answer = _await_answer(link, patience)
        except OSError:  # process 0 has ended, and may be started again
            answer = ""
        if answer == "go":
            return link
        link.close()
        if answer.startswith("no "):
            raise UserError(f"--distributed: {answer[3:]}; {SAME_REMEDY}")
        if answer:
            raise UserError(
                f"--coordinator={cluster.address}: another program uses this port; give all processes another"
            )
        time.sleep(RETRY_S)


def _await_answer(link: socket.socket, patience: _Patience) -> str:
    while not select.select([link], [], [], RETRY_S)[0]:
        patience.wait_for([0])
    return read_line(link)


def read_line(link: socket.socket) -> str:
    """Reads up to the end of a line, or of the connection; at most MAX_LINE bytes."""
    line = bytearray()
    while len(line) < MAX_LINE and not line.endswith(b"\n"):
        byte = link.recv(1)
        if not byte:
            break
        line += byte
    return line.decode("utf-8", "replace").removesuffix("\n")
