# ruff: noqa: E501 - what is printed is compared whole, however long a line
"""What can stand at a profile's path, and what is not TOML: one clear message, never a traceback."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from qlaunch.errors import ProfileError
from qlaunch.profile.read import _TOML_WORDS, read_profile

CASES: dict[str, tuple[str, str]] = {
    "no value": (
        """\
guest =
""",
        """\
error: vm.toml:1:8: this is not a TOML value
  found:   guest =
hint: text is written in quotes: key = "text\"""",
    ),
    "bare word": (
        """\
guest = windows7
""",
        """\
error: vm.toml:1:9: this is not a TOML value
  found:   guest = windows7
hint: text is written in quotes: key = "text\"""",
    ),
    "twice": (
        """\
[cpu]
cores = 1
cores = 2
""",
        """\
error: vm.toml:3:10: this key is said twice
  found:   cores = 2
hint: keep one of them; of what there may be several: [[disk]], a header each""",
    ),
    "table twice": (
        """\
[cpu]
[cpu]
""",
        """\
error: vm.toml:2:5: this table is said twice
  found:   [cpu]
hint: keep one of them; of what there may be several: [[disk]], a header each""",
    ),
    "unclosed text": (
        """\
name = "x
""",
        """\
error: vm.toml:1:10: the closing quote is missing
  found:   name = "x
hint: text is written in quotes, key = "text", and a comment begins with #""",
    ),
    "unclosed list": (
        """\
[cpu]
flags = ["+svm"
""",
        """\
error: vm.toml:4:1: the closing "]" of a list is missing
  found:   [[cdrom]]
hint: key = ["one", "two"]""",
    ),
    "two values": (
        """\
name = "a" "b"
""",
        """\
error: vm.toml:1:12: nothing may follow the value on its line
  found:   name = "a" "b"
hint: text is written in quotes, key = "text", and a comment begins with #""",
    ),
    "header": (
        """\
[cpu
""",
        """\
error: vm.toml:1:5: expected "]" after the name of a table
  found:   [cpu
hint: [cpu] is a table, [[disk]] one of several""",
    ),
    "no key": (
        """\
= 1
""",
        """\
error: vm.toml:1:1: this is neither a table nor a key
  found:   = 1
hint: a line is key = value, [table] or # comment""",
    ),
    "bad escape": (
        """\
name = "C:\\users"
""",
        """\
error: vm.toml:1:13: a backslash starts an escape here
  found:   name = "C:\\users"
hint: write 'single quotes', where it does not""",
    ),
    "just text": (
        """\
hello
""",
        """\
error: vm.toml:1:6: expected "=" after a key
  found:   hello
hint: a line is key = value, [table] or # comment""",
    ),
    "xml": (
        """\
<domain>
</domain>
""",
        """\
error: vm.toml:1:1: this is neither a table nor a key
  found:   <domain>
hint: a line is key = value, [table] or # comment""",
    ),
    "dotted over a value": (
        """\
name = "x"
name.y = 1
""",
        """\
error: vm.toml:2:11: this key is said twice
  found:   name.y = 1
hint: keep one of them; of what there may be several: [[disk]], a header each""",
    ),
    "carriage return": (
        """\
name = "x"\rguest = "linux"
""",
        """\
error: vm.toml:1:11: nothing may follow the value on its line
  found:   name = "x"\\rguest = "linux"
hint: text is written in quotes, key = "text", and a comment begins with #""",
    ),
    "shell": (
        """\
#!/bin/sh
qemu-system-x86_64 -m 4G
""",
        """\
error: vm.toml:2:20: expected "=" after a key
  found:   qemu-system-x86_64 -m 4G
hint: a line is key = value, [table] or # comment""",
    ),
}

BOOT = "\n[[cdrom]]\nfile = 'install.iso'\n"


def told(path: Path) -> str:
    """What reading the file says, with the directory's name taken out."""
    with pytest.raises(ProfileError) as caught:
        read_profile(path)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(str(path.parent), "DIR")


def test_each_of_the_parsers_words_has_a_hint() -> None:
    assert [theirs for theirs, _, hint in _TOML_WORDS if not hint] == []


@pytest.mark.parametrize("name", CASES)
def test_what_is_not_toml(tmp_path: Path, name: str) -> None:
    text, expected = CASES[name]
    path = tmp_path / "vm.toml"
    path.write_text(text + BOOT, encoding="utf-8", newline="")
    assert told(path) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "error: vm.toml: there is nothing to boot from"),
        (b"# nothing\r\n", "error: vm.toml: there is nothing to boot from"),
        (b'name = "x"\n# \xe4\n', "error: vm.toml:2:3: not UTF-8 text\n  found:   byte 0xe4"),
        (
            '# ä\nname = "ü'.encode() + b"\xff",
            "error: vm.toml:2:10: not UTF-8 text\n  found:   byte 0xff",
        ),
        ("name = 'x'".encode("utf-16"), "error: vm.toml:1:1: not UTF-8 text"),
        (b'guest = "linux"\nname = "\0"\n', "error: vm.toml:2:9: a NUL byte"),
        (b"\0" * 100, "error: vm.toml:1:1: a NUL byte"),
        (b"#" * (1 << 20) + b"#", "error: DIR/vm.toml: larger than 1 MiB"),
        (b"a = " + b"[" * 5000 + b"]" * 5000, "error: vm.toml: lists or tables nest too deep"),
        (b"cpu.cores = " + b"9" * 5000, "error: vm.toml: a number with too many digits"),
        (b"a" + b".a" * 900 + b" = 1", "error: vm.toml:1: a: unknown key"),
        (b"a = " + b"[" * 390 + b"]" * 390, "error: vm.toml:1: a: unknown key"),
    ],
    ids=lambda value: repr(value[:16]),
)
def test_bytes(tmp_path: Path, data: bytes, expected: str) -> None:
    path = tmp_path / "vm.toml"
    path.write_bytes(data)
    assert told(path).startswith(expected)


def test_utf16_is_named(tmp_path: Path) -> None:
    path = tmp_path / "vm.toml"
    path.write_bytes("name = 'x'".encode("utf-16"))
    assert "hint: this looks like UTF-16: save the file as UTF-8" in told(path)


def test_byte_order_mark_and_crlf_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "vm.toml"
    path.write_bytes(b"\xef\xbb\xbf" + f'guest = "linux"\n{BOOT}'.replace("\n", "\r\n").encode())
    loaded = read_profile(path)
    assert loaded.profile.guest == "linux"
    assert loaded.origin("cdrom[0].file") == "vm.toml:4"


def test_a_missing_file(tmp_path: Path) -> None:
    assert told(tmp_path / "vm.toml").startswith("error: DIR/vm.toml: there is no such file")


def test_a_directory(tmp_path: Path) -> None:
    (tmp_path / "vm.toml").mkdir()
    assert told(tmp_path / "vm.toml").startswith("error: DIR/vm.toml: this is a directory\n")


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "vm.toml")
    assert told(tmp_path / "vm.toml").startswith("error: DIR/vm.toml: this is a pipe\n")


def test_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("vm.toml")
        assert told(tmp_path / "vm.toml").startswith("error: DIR/vm.toml: this is a socket\n")


def test_a_device() -> None:
    assert told(Path("/dev/zero")).startswith("error: DIR/zero: this is a device\n")


def test_a_file_as_directory(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    message = told(tmp_path / "a" / "vm.toml")
    assert message == "error: DIR/vm.toml: cannot be read: not a directory"


def test_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "vm.toml").symlink_to("vm.toml")
    assert "cannot be read: too many levels of symbolic links" in told(tmp_path / "vm.toml")


def test_an_impossible_path() -> None:
    assert "cannot be read: " in told(Path("/a\0b"))
    assert "cannot be read: file name too long" in told(Path("/" + "x" * 300))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_an_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "vm.toml").touch(mode=0)
    assert told(tmp_path / "vm.toml") == "error: DIR/vm.toml: cannot be read: permission denied"


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "vm.toml"
    with path.open("wb") as file:
        file.truncate(100 << 30)
    assert "larger than 1 MiB, which no profile is\n  found:   107374182400 bytes" in told(path)


def test_a_file_that_hides_its_size() -> None:
    message = told(Path("/proc/self/pagemap"))
    assert message.startswith("error: DIR/pagemap: larger than 1 MiB, which no profile is\nhint:")


def test_a_link_is_followed_and_relative_paths_stay_beside_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.toml").write_text(BOOT, encoding="utf-8")
    (tmp_path / "vm.toml").symlink_to("real/x.toml")
    profile = read_profile(tmp_path / "vm.toml").profile
    assert (profile.name, profile.cdrom[0].file) == ("vm", str(tmp_path / "install.iso"))
