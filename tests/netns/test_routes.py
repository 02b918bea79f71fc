"""The way back of an SSH connection, by the routes of a real kernel in a namespace of its own.

The client comes in over a bridge on a card; the default route leads elsewhere.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
MAKE = """
set -e
mount -t sysfs sysfs /sys
ip link add card type veth peer name far
ip link add other type veth peer name gate
ip link add br7 type bridge
ip link set card master br7
for name in card far other gate br7 lo; do ip link set $name up; done
ip -4 addr add 198.51.100.1/24 dev br7
ip -6 addr add 2001:db8:9::1/64 dev br7 nodad
ip -4 addr add 192.0.2.1/24 dev other
ip -4 route add default via 192.0.2.254
ip -4 route add 203.0.113.0/24 via 198.51.100.254
if [ -n "$POLICY" ]; then
    ip link add third type veth peer name beyond
    for name in third beyond; do ip link set $name up; done
    ip -4 addr add 198.18.0.1/24 dev third noprefixroute
    ip -4 route add 198.18.0.0/24 dev third table 100
    ip -4 route add default via 198.18.0.254 dev third table 100
    ip -4 rule add from 198.18.0.1 table 100
fi
exec "$0" -c "$1"
"""
LOOK = """
from pathlib import Path
from qlaunch.facts.holders import _Network, is_vital
network = _Network(Path("/"))
for name in ("card", "other", "third"):
    for holder in network.holders([name]):
        print(name, is_vital(holder), holder.what)
"""


def seen(connection: str, policy: str = "") -> list[str]:
    words = ["unshare", "-m", "-n", "sh", "-c", MAKE, sys.executable, LOOK]
    environ = {**os.environ, "SSH_CONNECTION": connection, "POLICY": policy}
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("client", ["198.51.100.7", "203.0.113.9", "2001:db8:9::5"])
def test_the_card_that_an_ssh_connection_came_over(client: str) -> None:
    assert seen(f"{client} 50000 198.51.100.1 22") == [
        f"card True card (through br7), the SSH connection from {client}",
        "other True other, the default route",
    ]


@pytest.mark.parametrize(("connection", "over"), [
    ("203.0.114.9 50000 198.18.0.1 22", "third"),  # by the rule for our address
    ("::ffff:203.0.114.9 50000 ::ffff:198.18.0.1 22", "third"),
    ("203.0.114.9 50000 192.0.2.1 22", "other"),
    ("203.0.113.9 50000 198.51.100.1 22", "card"),
])
def test_a_table_of_its_own_for_one_card(connection: str, over: str) -> None:
    """Its default route is for those that came in by it, and it is no less the way back."""
    lines = seen(connection, "yes")
    assert [line for line in lines if "the SSH connection" in line] == [
        f"{over} True {'card (through br7)' if over == 'card' else over}, the SSH connection from "
        f"{connection.split(maxsplit=1)[0]}",
    ]
    if over != "third":
        assert "third False third, which is up and has an address" in lines
