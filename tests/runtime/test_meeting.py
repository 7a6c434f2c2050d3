"""The options of a cluster are checked before anybody waits."""

import pytest

from daad_jax.errors import UserError
from daad_jax.runtime.meeting import Cluster, meet


def test_an_address_is_a_host_and_a_port():
    assert Cluster.parse("node7:9876", 2, 1) == Cluster("node7", 9876, 2, 1)
    assert Cluster.parse("[::1]:80", 1, 0) == Cluster("::1", 80, 1, 0)
    assert Cluster("node7", 9876, 2, 1).address == "node7:9876"


@pytest.mark.parametrize("address", ["", "node7", ":1", "node7:", "node7:0", "node7:70000", "node7:x"])
def test_other_addresses_are_refused(address):
    with pytest.raises(UserError, match="must be HOST:PORT of process 0"):
        Cluster.parse(address, 2, 0)


def test_a_number_that_no_process_has():
    with pytest.raises(UserError, match=r"--process_id=2: with --num_processes=2 the numbers are 0 to 1"):
        Cluster.parse("node7:1", 2, 2)


def test_a_host_that_is_not_there():
    with pytest.raises(UserError, match="no such host"):
        meet(Cluster("no-such-host.invalid", 1, 2, 1))
