"""Files opened by root for QEMU: a path that leads elsewhere than when it was checked."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from qlaunch.errors import HostError
from qlaunch.run.handover import open_file

CHANGED = "this is not the block device that was checked before"


def test_a_link_that_leads_to_a_file_by_now(tmp_path: Path) -> None:
    """Also to a pipe, whose opening would wait, and a port, whose opening has effects."""
    file, pipe, link = tmp_path / "file", tmp_path / "pipe", tmp_path / "link"
    file.write_text("root's own")
    os.mkfifo(pipe)
    for target in (file, pipe, Path("/dev/null"), tmp_path):
        link.symlink_to(target)
        with pytest.raises(HostError, match=CHANGED) as caught:
            open_file(str(link), writable=True, device="1:3")
        (problem,) = caught.value.problems
        assert (problem.where, problem.found) == (str(link), "no block device")
        link.unlink()
    with pytest.raises(HostError, match="cannot be opened for the guest"):
        open_file(str(link), writable=True, device="1:3")


@pytest.mark.skipif(os.geteuid() != 0, reason="makes device nodes")
def test_a_node_of_another_device(tmp_path: Path) -> None:
    node = tmp_path / "node"
    loops = sorted(Path("/sys/class/block").glob("loop*/dev"))
    if not loops:
        pytest.skip("needs loop devices")
    number = loops[0].read_text().strip()
    major, minor = (int(word) for word in number.split(":"))
    os.mknod(node, stat.S_IFBLK | 0o600, os.makedev(major, minor))
    for device in (f"{major}:{minor + 99}", ""):
        with pytest.raises(HostError, match=CHANGED) as caught:
            open_file(str(node), writable=False, device=device)
        assert caught.value.problems[0].found == number
    try:
        fd = open_file(str(node), writable=False, device=number)
    except HostError as error:
        pytest.skip(f"no nodes may be opened here: {error}")
    assert os.fstat(fd).st_rdev == os.makedev(major, minor)
    os.close(fd)
