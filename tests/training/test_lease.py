"""One writer for a run in a bucket: races of real processes, kills, and a lease that is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from daad_jax import buckets, uploads
from daad_jax.buckets import open_place
from daad_jax.errors import UserError
from daad_jax.training import lease
from tests.emulator import BUCKET, needs_emulator
from tests.tiny import tiny_config

pytestmark = [pytest.mark.usefixtures("emulator"), needs_emulator]
SHORT_S = 2.0
# It imports once and forks a process for each racer, since all threads of a process are one holder.
RACERS = """
import json, os, signal, sys, time
from daad_jax.buckets import open_place
from daad_jax.errors import UserError
from daad_jax.training import lease
import google.cloud.storage
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
for line in sys.stdin:
    path, machine, lease_s = json.loads(line)
    if pid := os.fork():
        print(pid, flush=True)
        continue
    def say(text):
        os.write(1, f"{text}\\n".encode())
    lease.say = lambda text: None
    if machine:
        lease._this_machine = lambda: machine
    try:
        with lease.holding(open_place(path), "busy", lease_s):
            say(f"{os.getpid()} holds")
            time.sleep(60)
    except UserError as error:
        say(f"{os.getpid()} {error}")
    os._exit(0)
"""


class Racers:
    """Processes that want a lease. `answers` has what they said, by process."""

    def __init__(self):
        self._starter = subprocess.Popen(
            [sys.executable, "-c", RACERS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._starter.stdout.readline() == "ready\n"
        self._started, self.answers = [], {}

    def start(self, place, *machines):
        """Starts a process for each machine ("": this one), and returns their numbers."""
        for machine in machines:
            self._starter.stdin.write(json.dumps([str(place), machine, SHORT_S]) + "\n")
        self._starter.stdin.flush()
        first = len(self._started)
        while len(self._started) < first + len(machines):
            self._read()
        return self._started[first:]

    def ask(self, *processes):
        """What the processes say, when all of them have said it."""
        while not self.answers.keys() >= set(processes):
            self._read()
        return [self.answers[process] for process in processes]

    def _read(self):
        process, _, answer = self._starter.stdout.readline().strip().partition(" ")
        if answer:
            self.answers[int(process)] = answer
        else:
            self._started.append(int(process))

    def kill(self, *processes):
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def end(self):
        self.kill(*self._started)
        self._starter.communicate()


@pytest.fixture(scope="module")
def racers(emulator):
    started = Racers()
    yield started
    started.end()


def write_holder(place, generation=0, **holder):
    return uploads.create(place, json.dumps({"host": "h", "token": "1", **holder}), generation)


@pytest.mark.parametrize("race", range(10))
def test_one_of_six_racers_wins_every_time(racers, race):
    """Half of them say that they run on other machines, so they watch the lease of the first one."""
    place = open_place(f"gs://{BUCKET}/race-{race}/.training")
    if race in (1, 2, 3):
        write_holder(place, machine=lease._this_machine(), process=2**22 + 1, started="1")
    if race == 4:  # nobody knows that this holder is dead
        write_holder(place, machine="elsewhere", process=1, started="1")
    if race in (5, 6):
        write_holder(place, released=True)
    processes = racers.start(place, "", "", "", "a", "b", "c")
    try:
        assert sorted(racers.ask(*processes)) == ["busy"] * 5 + ["holds"]
    finally:
        racers.kill(*processes)


def test_a_holder_that_was_killed_is_followed(racers):
    place = open_place(f"gs://{BUCKET}/killed/.training")
    (first,) = racers.start(place, "")
    assert racers.ask(first) == ["holds"]
    assert racers.ask(*racers.start(place, "")) == ["busy"]
    racers.kill(first)
    (here,) = racers.start(place, "")
    assert racers.ask(here) == ["holds"]
    racers.kill(here)
    assert racers.ask(*racers.start(place, "another machine")) == ["holds"]


def test_a_holder_that_lives_keeps_its_lease(racers):
    place = open_place(f"gs://{BUCKET}/lives/.training")
    assert racers.ask(*racers.start(place, "")) == ["holds"]
    time.sleep(1.5 * SHORT_S)
    assert racers.ask(*racers.start(place, "another machine")) == ["busy"]


def test_a_lease_is_given_back(capsys):
    place = open_place(f"gs://{BUCKET}/given/.training")
    with lease.holding(place, "busy"):
        assert lease.find_holder(place)
        with pytest.raises(UserError, match="busy"), lease.holding(place, "busy"):
            pass
    assert not lease.find_holder(place)
    with lease.holding(place, "busy"):
        pass
    assert capsys.readouterr().out == ""  # nobody waited


def test_a_lease_that_was_taken_is_not_renewed_and_not_given_back():
    place = open_place(f"gs://{BUCKET}/taken/.training")
    with lease.holding(place, "busy", 0.2):
        current = buckets.blob(place).bucket.get_blob(buckets.blob(place).name).generation
        while not write_holder(place, current, token="ab", machine="elsewhere"):
            current = buckets.blob(place).bucket.get_blob(buckets.blob(place).name).generation
        time.sleep(0.3)
        assert lease.find_holder(place) == 0xAB
    assert lease.find_holder(place) == 0xAB


@pytest.mark.parametrize("content", ["", "[]", "{", "{}", '{"token": "x", "process": "y", "machine": 3}'])
def test_a_damaged_lease_is_waited_for(content):
    place = open_place(f"gs://{BUCKET}/damaged-{len(content)}/.training")
    uploads.create(place, content)
    assert lease.find_holder(place) == 0
    with lease.holding(place, "busy", 0.3):
        assert lease.find_holder(place)


def test_a_claim_in_a_bucket_ends_when_another_process_trains(monkeypatch):
    from daad_jax.training import workdir

    run = open_place(f"gs://{BUCKET}/claimed")
    with workdir.claim_workdir(run, tiny_config()):
        claim = workdir.find_claim(run)
        workdir.require_claim(run, claim)
        second = workdir.claim_workdir(run, tiny_config())
        with pytest.raises(UserError, match="another process trains here; give another --workdir"), second:
            pass
        files = run / workdir.LOCK
        generation = buckets.blob(files).bucket.get_blob(buckets.blob(files).name).generation
        assert write_holder(files, generation, token="ab", machine="elsewhere")
        with pytest.raises(UserError, match="another process trains here now"):
            workdir.require_claim(run, claim)
    assert json.loads(buckets.read_bytes(run / "config.json"))["name"] == "tiny"


def test_only_finished_checkpoints_count():
    from daad_jax.training.workdir import saved_step

    run = open_place(f"gs://{BUCKET}/steps")
    assert saved_step(run) == 0
    uploads.create(run / "checkpoints" / "4" / "commit_success.txt", "x")
    uploads.create(run / "checkpoints" / "8" / "state", "half of a save")
    uploads.create(run / "checkpoints" / "12.damaged" / "commit_success.txt", "x")
    assert saved_step(run) == 4
