"""Headers of images as qemu-img writes them, and of what is none."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from qlaunch.facts.files import read_files
from qlaunch.facts.images import Header, parse_header, read_header
from qlaunch.facts.model import Invoker

SIZE = 64 << 20
USER = Invoker(root=True, uid=54321, gid=54321, name="user", asked=54321)


@pytest.mark.parametrize(
    ("kind", "options", "capacity"),
    [
        ("raw", "", None), ("qcow2", "", SIZE), ("qcow2", "compat=0.10", SIZE), ("qed", "", SIZE),
        ("vdi", "", SIZE), ("vhdx", "", None), ("vmdk", "", None),
        ("vmdk", "subformat=monolithicFlat", None), ("vpc", "force_size=on", SIZE),
        ("vpc", "force_size=on,subformat=fixed", SIZE),
    ],
)
def test_what_qemu_img_writes(
    tmp_path: Path, kind: str, options: str, capacity: int | None
) -> None:
    image = tmp_path / "image"
    more = ["-o", options] if options else []
    subprocess.run(["qemu-img", "create", "-q", "-f", kind, *more, image, "64M"], check=True)
    assert read_header(str(image)) == Header(kind, capacity)


def test_what_is_no_image() -> None:
    assert parse_header(b"") == Header("raw", None)
    assert parse_header(b"\0" * 512, b"\0" * 512) == Header("raw", None)
    assert parse_header(b"\0" * 512, b"QFI\xfb".ljust(512, b"\0")) == Header("raw", None)
    assert parse_header(b"QFI\xfb\0\0\0\1".ljust(512, b"\0")).format == "qcow"
    assert read_header("/nonexistent") == Header("", None)


def test_root_reads_no_header_for_a_user_who_may_not_read_the_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"QFI\xfb\0\0\0\3".ljust(512, b"\0"))
    secret.chmod(0o600)
    (file,) = read_files([str(secret)], USER)
    assert (file.kind, file.readable, file.format) == ("file", False, "")
    (own,) = read_files([str(secret)], None)
    assert own.format == "qcow2"


def test_a_missing_file_tells_where_it_would_be(tmp_path: Path) -> None:
    (here,) = read_files([str(tmp_path / "new")], None)
    assert (here.kind, here.near, here.writable) == ("missing", "", True)
    assert here.free
    (below,) = read_files([str(tmp_path / "a/b/new")], None)
    assert (below.near, below.writable) == (str(tmp_path), False)
    (tmp_path / "link").symlink_to(tmp_path)
    (linked,) = read_files([str(tmp_path / "link/new")], None)
    assert (linked.near, linked.writable) == ("", True)
