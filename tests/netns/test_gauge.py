"""What top counts on a tap, in a network namespace of its own, which dies with the test."""

from __future__ import annotations

import os
import subprocess

import pytest

from qlaunch.host.tap import open_tap
from qlaunch.vm.gauge import Counters, nics_of
from tests.netns.space import fresh

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


def test_a_taps_bytes_are_the_guests() -> None:
    with fresh():
        name, fds = open_tap(None, 2, vnet_hdr=False)
        try:
            assert nics_of(os.getpid()) == {name: Counters(0, 0)}
            subprocess.run(["ip", "link", "set", name, "up"], check=True)
            quiet = nics_of(os.getpid())[name]
            os.write(fds[0], b"\xff" * 6 + b"\x02" * 6 + b"\x88\xb5" + bytes(500))  # as QEMU does
            after = nics_of(os.getpid())[name]
            assert after.second - quiet.second == 514  # the guest sent it
        finally:
            for fd in fds:
                os.close(fd)
        assert nics_of(os.getpid()) == {}
