"""Connects the processes of a run before JAX starts, and prints which processes are missing.

Process 0 listens at the address of --coordinator until all other processes have connected. The connections
stay open, so that a closed connection shows that its process has ended. This file imports no JAX.
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
NEWS_S = 20.0  # time between two printed lines about the waiting
RETRY_S = 0.3
ANSWER_S = 2.0  # a program that connects must send its greeting within this time
MAX_LINE = 256  # bytes; input from the network is not trusted
# All processes need the same versions of these packages.
COMPARED_PACKAGES = ("daad_jax", "jax", "jaxlib", "flax", "optax", "numpy")
SAME_REMEDY = "start all processes again with the same options and the same versions"


@dataclass(frozen=True)
class Cluster:
    """The address of process 0, the number of processes, and the index of this process."""

    host: str
    port: int
    count: int
    index: int

    @classmethod
    def parse(cls, address: str, count: int, index: int) -> "Cluster":
        """Makes a cluster from the options of a command.

        Raises:
            UserError: the address is not HOST:PORT, or `index` is not below `count`.
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
        """The address of process 0, as HOST:PORT."""
        return f"{self.host}:{self.port}"


class _Patience:
    """Prints every `NEWS_S` seconds which processes are missing, and raises an error after the timeout."""

    def __init__(self, cluster: Cluster, timeout_s: float) -> None:
        self._cluster, self._timeout_s = cluster, timeout_s
        self._start, self._due = time.monotonic(), NEWS_S

    def wait_for(self, missing: list[int]) -> None:
        """Raises UserError if the processes `missing` have not connected in time."""
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
    """Waits until all processes are connected.

    Args:
        cluster: the processes of the run.
        timeout_s: how long to wait, in seconds.

    Returns:
        The open connections, by the number of the process at the other end. Process 0 has connections to all
        other processes; every other process has one connection, to process 0.

    Raises:
        UserError: another program uses the port, a process does not connect in time, or the processes have
            different options or versions.
    """
    return _gather(cluster, timeout_s) if cluster.index == 0 else {0: _join(cluster, timeout_s)}


def find_versions() -> list[str]:
    """Returns the versions that must be the same in all processes of a run, as "jax-0.8.0"."""
    versions = []
    for name in COMPARED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name}-{importlib.metadata.version(name)}")
    return versions


def _gather(cluster: Cluster, timeout_s: float) -> dict[int, socket.socket]:
    """Waits, as process 0, for a connection of every other process, and lets all of them start."""
    patience, links = _Patience(cluster, timeout_s), dict[int, socket.socket]()
    came = set[int]()
    # Accept connections until all processes are there.
    with _listen(cluster) as listener:
        try:
            while missing := [i for i in range(1, cluster.count) if i not in links]:
                # A process that connected once and left has given up, because others never connected. So the
                # error names the processes that never connected, if there are any.
                patience.wait_for([i for i in missing if i not in came] or missing)
                ready, _, _ = select.select([listener, *links.values()], [], [], RETRY_S)
                for index in [i for i, link in links.items() if link in ready]:
                    links.pop(index).close()  # the process has sent more than its greeting, or has ended
                if listener in ready:
                    _admit(listener, cluster, links)
                    came |= set(links)
        except BaseException:
            for link in links.values():
                link.close()
            raise
    # Let all processes start.
    for link in links.values():
        with contextlib.suppress(OSError):  # the watchers notice a process that has ended since
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
    """Accepts a connection if it comes from a process of this run; closes it otherwise.

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
    """Connects to process 0, and waits until it lets all processes start."""
    patience = _Patience(cluster, timeout_s)
    while True:
        patience.wait_for([0])
        # Connect to process 0.
        try:
            link = socket.create_connection((cluster.host, cluster.port), ANSWER_S)
        except socket.gaierror as error:
            raise UserError(
                f"--coordinator={cluster.address}: no such host ({error.strerror}); give the name or the "
                "address of the machine of process 0"
            ) from error
        except OSError:  # process 0 does not listen yet
            time.sleep(RETRY_S)
            continue
        # Send the greeting, and wait for the answer.
        try:
            greeting = [GREETING, str(cluster.count), str(cluster.index), *find_versions()]
            link.sendall(f"{' '.join(greeting)}\n".encode())
            answer = _await_answer(link, patience)
        except OSError:  # process 0 has ended, and may be started again
            answer = ""
        # Use the connection, stop with the reason, or try again.
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
    """Reads one line of at most MAX_LINE bytes, without its end. Returns "" if the connection is closed."""
    line = bytearray()
    while len(line) < MAX_LINE and not line.endswith(b"\n"):
        byte = link.recv(1)
        if not byte:
            break
        line += byte
    return line.decode("utf-8", "replace").removesuffix("\n")
