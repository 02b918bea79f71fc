"""Listening sockets: where, with which mode, and what is refused."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from qlaunch.errors import HostError
from qlaunch.plan.model import Account
from qlaunch.vm import sockets
from qlaunch.vm.sockets import SUN_PATH, connect_unix, listen_unix


def _talk(listener: socket.socket, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        connect_unix(client, str(path))
        served, _ = listener.accept()
        with served:
            served.sendall(b"here")
            assert client.recv(4) == b"here"


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("mode", [0o600, 0o660])
def test_mode_does_not_depend_on_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        with listen_unix(str(tmp_path / "s"), mode=mode):
            assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode
    finally:
        os.umask(before)


def test_mode_is_there_from_the_first_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    monkeypatch.setattr(
        sockets, "_set_mode",
        lambda name, place, _: modes.append(os.stat(name, dir_fd=place).st_mode),
    )
    before = os.umask(0)
    try:
        listen_unix(str(tmp_path / "s")).close()
    finally:
        os.umask(before)
    assert [stat.S_IMODE(mode) for mode in modes] == [0o600]


def test_path_longer_than_sun_path(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    path = deep / "control.sock"
    assert len(str(path)) > SUN_PATH
    with listen_unix(str(path)) as listener:
        assert path.is_socket()
        _talk(listener, path)


def test_socket_of_an_earlier_run_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listen_unix(str(path)).close()
    with listen_unix(str(path)) as listener:
        _talk(listener, path)


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_anything_else_in_the_way_is_refused_and_kept(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    target = tmp_path / "target"
    listen_unix(str(target)).close()
    if kind == "file":
        path.write_text("mine")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(target)
    before = path.lstat()
    with pytest.raises(HostError, match="in the way"):
        listen_unix(str(path))
    assert path.lstat() == before
    assert target.is_socket()


def test_a_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(HostError, match="no socket could be made"):
        listen_unix(str(tmp_path / "link/s"))
    assert list((tmp_path / "real").iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "socket"])
def test_a_link_put_in_the_sockets_place_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    victim = tmp_path / "victim"
    if kind == "socket":
        listen_unix(str(victim), mode=0o600).close()
    else:
        victim.touch(mode=0o600)
    set_mode = sockets._set_mode

    def swapped(name: str, place: int, mode: int) -> None:
        (tmp_path / name).unlink()
        (tmp_path / name).symlink_to(victim)
        set_mode(name, place, mode)

    monkeypatch.setattr(sockets, "_set_mode", swapped)
    with pytest.raises(HostError, match="something else was put in its place"):
        listen_unix(str(tmp_path / "s"), mode=0o666)
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600


@pytest.mark.parametrize("path", ["missing/s", "x" * 300])
def test_impossible_paths(tmp_path: Path, path: str) -> None:
    with pytest.raises(HostError, match="no socket could be made"):
        listen_unix(str(tmp_path / path))


@pytest.mark.skipif(os.geteuid() != 0, reason="gives the socket to another account")
def test_given_to_the_account(tmp_path: Path) -> None:
    account = Account(uid=65534, gid=65533, name="nobody")
    with listen_unix(str(tmp_path / "s"), account=account):
        found = (tmp_path / "s").stat()
    assert (found.st_uid, found.st_gid) == (65534, 65533)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may give files away")
def test_nothing_stays_when_it_cannot_be_given(tmp_path: Path) -> None:
    with pytest.raises(HostError):
        listen_unix(str(tmp_path / "s"), account=Account(uid=0, gid=0, name="root"))
    assert not (tmp_path / "s").exists()
