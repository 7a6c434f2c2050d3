"""One writer for a run in a bucket: races of real processes, kills, and a lease that is lost."""

import json
import signal
import subprocess
import sys
import time

import pytest

from daad_jax import buckets
from daad_jax.buckets import open_place
from daad_jax.errors import UserError
from daad_jax.training import lease
from tests.emulator import BUCKET, emulator, needs_emulator  # noqa: F401
from tests.tiny import tiny_config

pytestmark = [pytest.mark.usefixtures("emulator"), needs_emulator]
SHORT_S = 1.0
# Ten threads of a process would be one machine and one process to the lease, so each racer is a process. They
# import first, and begin when their input ends.
RACER = """
import sys
from daad_jax.buckets import open_place
from daad_jax.errors import UserError
from daad_jax.training import lease
place = open_place(sys.argv[1])
if sys.argv[2]:
    lease._this_machine = lambda: sys.argv[2]
print("ready", flush=True)
sys.stdin.read()
try:
    with lease.holding(place, "busy", float(sys.argv[3])):
        print("holds", flush=True)
        import time; time.sleep(float(sys.argv[4]))
except UserError as error:
    print(error, flush=True)
"""


def start(place, machine="", lease_s=SHORT_S, hold_s=600.0):
    arguments = [sys.executable, "-c", RACER, str(place), machine, str(lease_s), str(hold_s)]
    racer = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert racer.stdout.readline() == "ready\n"
    return racer


def go(racer):
    racer.stdin.close()


def answer(racer):
    """What a racer says in the end; it may say before that it waits."""
    while (line := racer.stdout.readline()) not in ("holds\n", "busy\n"):
        assert "waiting up to" in line
    return line.strip()


def end(*racers):
    for racer in racers:
        racer.kill()
        racer.wait()
        racer.stdout.close()


def write_holder(place, generation=0, **holder):
    return buckets.create(place, json.dumps({"host": "h", "token": "1", **holder}), generation)


@pytest.mark.parametrize("before", ["nothing", "a dead holder here", "a dead holder elsewhere"])
def test_one_of_four_racers_wins(before):
    place = open_place(f"gs://{BUCKET}/{before}/.training".replace(" ", "-"))
    if before == "a dead holder here":
        write_holder(place, machine=lease._this_machine(), process=2**22 + 1, started="1")
    if before == "a dead holder elsewhere":
        write_holder(place, machine="elsewhere", process=1, started="1")
    racers = [start(place) for _ in range(4)]
    for racer in racers:
        go(racer)
    try:
        assert sorted(map(answer, racers)) == ["busy"] * 3 + ["holds"]
    finally:
        end(*racers)


@pytest.mark.slow
@pytest.mark.parametrize("race", range(10))
def test_one_of_eight_racers_wins_every_time(race):
    """Half of them say that they run on other machines, so that they watch the lease."""
    place = open_place(f"gs://{BUCKET}/race-{race}/.training")
    if race % 2:
        write_holder(place, machine="elsewhere", process=1, started="1")
    racers = [start(place, f"machine-{i}" if i % 2 else "") for i in range(8)]
    for racer in racers:
        go(racer)
    try:
        assert sorted(map(answer, racers)) == ["busy"] * 7 + ["holds"]
    finally:
        end(*racers)


def test_a_holder_that_was_killed_is_followed():
    place = open_place(f"gs://{BUCKET}/killed/.training")
    first, second, third = start(place), start(place), start(place, "another machine")
    try:
        go(first)
        assert answer(first) == "holds"
        go(second)
        assert answer(second) == "busy"
        first.send_signal(signal.SIGKILL)
        first.wait()
        go(third)  # on another machine, so it waits
        assert answer(third) == "holds"
    finally:
        end(first, second, third)


def test_a_holder_that_lives_keeps_its_lease():
    place = open_place(f"gs://{BUCKET}/lives/.training")
    holder, other = start(place), start(place, "another machine")
    try:
        go(holder)
        assert answer(holder) == "holds"
        time.sleep(1.5 * SHORT_S)
        go(other)
        assert answer(other) == "busy"
    finally:
        end(holder, other)


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
    buckets.create(place, content)
    assert lease.find_holder(place) == 0
    with lease.holding(place, "busy", 0.3):
        assert lease.find_holder(place)


def test_a_claim_in_a_bucket_ends_when_another_process_trains(monkeypatch):
    from daad_jax.training import workdir

    run = open_place(f"gs://{BUCKET}/claimed")
    with workdir.claim_workdir(run, tiny_config()):
        claim = workdir.find_claim(run)
        workdir.require_claim(run, claim)
        with pytest.raises(UserError, match="another process trains here; give another --workdir"):
            with workdir.claim_workdir(run, tiny_config()):
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
    buckets.create(run / "checkpoints" / "4" / "commit_success.txt", "x")
    buckets.create(run / "checkpoints" / "8" / "state", "half of a save")
    buckets.create(run / "checkpoints" / "12.damaged" / "commit_success.txt", "x")
    assert saved_step(run) == 4
