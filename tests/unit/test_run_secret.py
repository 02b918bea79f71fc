"""A password's way from its file to QEMU: in memory, without its newline, read as the account.
And whose the sockets are that QEMU inherits."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec
import pytest

from qlaunch.errors import HostError
from qlaunch.run import handover
from tests.fake.plans import ROOT, host, planned


@pytest.mark.parametrize(
    "written", [b"open sesame\n", b"open sesame\r\n", b"open sesame", b"open sesame\nnot this\n"]
)
def test_the_first_line_without_its_end(tmp_path: Path, written: bytes) -> None:
    file = tmp_path / "secret"
    file.write_bytes(written)
    fd = handover._secret(str(file))
    try:
        # QEMU opens it by this name, whatever the offset is here.
        assert Path(f"/proc/self/fd/{fd}").read_bytes() == b"open sesame"
        assert not os.get_inheritable(fd)
        assert "memfd:secret" in str(Path(f"/proc/self/fd/{fd}").readlink())
    finally:
        os.close(fd)


@pytest.mark.parametrize("written", [b"", b"\n", b"\nsecond"])
def test_a_file_without_a_password(tmp_path: Path, written: bytes) -> None:
    file = tmp_path / "secret"
    file.write_bytes(written)
    with pytest.raises(HostError, match="no password in this file's first line"):
        handover._secret(str(file))


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(HostError, match="cannot be read"):
        handover._secret(str(tmp_path / "none"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_the_users_sockets_are_made_as_that_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory is theirs: root's bind() would follow a link that takes its place."""
    who: list[tuple[str, int]] = []

    def listen(path: str, **_: object) -> socket.socket:
        who.append((Path(path).name, os.geteuid()))
        return socket.socket(socket.AF_UNIX)

    monkeypatch.setattr("qlaunch.run.handover.listen_unix", listen)
    plan = planned('[[serial]]\ntype = "socket"\n', host(invoker=ROOT))
    place = str(tmp_path)
    fds = tuple(f for f in plan.fds if f.kind != "lock")
    plan = msgspec.structs.replace(plan, runtime_dir=place, socket_dir=place, fds=fds)
    with handover.opened(plan, -1, []):
        pass
    assert who == [("control.sock", 0), ("qmp.sock", 1000), ("serial0.sock", 1000)]
    assert os.geteuid() == 0
