"""A user's profile that root carries out for them opens, makes, changes and shows nothing of
root's: whatever key names it, and whatever link the user has put in the way."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.fake.users import Stage
from tests.qemu.test_users import MACHINE, stage

__all__ = ["stage"]
pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users"),
]
WORDS = "root's own words"
Seen = dict[str, tuple[int, int, int, str]]

# A key that names root's file ({f}) or a new one beside it ({n}).
KEYS = {
    "disk": '[[disk]]\nfile = "{f}"\n',
    "read-only disk": '[[disk]]\nfile = "{f}"\nread_only = true\n',
    "throwaway": '[[disk]]\nfile = "{f}"\nthrowaway = true\n',
    "made": '[[disk]]\nfile = "{n}"\ncreate = {{ size = "1M" }}\n',
    "backing": '[[disk]]\nfile = "new.qcow2"\nformat = "qcow2"\n'
               'create = {{ backing = "{f}", backing_format = "raw" }}\n',
    "cdrom": '[[cdrom]]\nfile = "{f}"\n',
    "serial": '[[serial]]\nfile = "{f}"\n',
    "new serial": '[[serial]]\nfile = "{n}"\n',
    "parallel": '[[parallel]]\nfile = "{f}"\n',
    "debugcon": '[debugcon]\nfile = "{n}"\n',
    "device": '[[serial]]\ntype = "device"\nfile = "{f}"\n',
    "a device of root's": '[[serial]]\ntype = "device"\nfile = "{c}"\n',
    "evdev": '[[input]]\nevdev = "{c}"\n',
    "kernel": '[kernel]\nfile = "{f}"\n',
    "initrd": '[kernel]\nfile = "disk.img"\ninitrd = "{f}"\n',
    "bios": '[machine]\nbios = "{f}"\n',
    "acpi": '[machine]\nacpi_tables = [{{ file = "{f}" }}]\n',
    "fw_cfg": '[machine]\nfw_cfg_files = [{{ name = "opt/a", file = "{f}" }}]\n',
    "uefi": '[machine]\nfirmware = {{ code = "{f}" }}\n',
    "uefi template": '[machine]\nfirmware = {{ code = "disk.img", vars = "{f}" }}\n',
    "password": '[display]\ntype = "vnc"\npassword_file = "{f}"\n',
    "memory": '[memory]\npath = "{f}"\n',
    "memory directory": '[memory]\npath = "{d}"\n',
    "9p": '[[share]]\npath = "{d}"\ntag = "a"\ntype = "9p"\n',
    "virtiofs": '[[share]]\npath = "{d}"\ntag = "a"\n',
    "account": '[qemu]\nuser = "root"\n',
    "arguments": '[qemu]\nargs = ["-chardev", "file,id=x,path={n}"]\n',
}
# What a user may put where a file of the machine's is looked for → where it leads to.
LINKS = {
    ".local/state/qlaunch/vm": ("{d}", ""),
    ".local/state/qlaunch/vm/qemu.log": ("{f}", ""),
    ".local/state/qlaunch/vm/qlaunch.log": ("{f}", ""),
    ".local/state/qlaunch/vm/last": ("{f}", ""),
    ".local/state/qlaunch/vm/serial1.log": ("{f}", "[[serial]]\n"),
    ".local/state/qlaunch/vm/tpm2": ("{d}", "[tpm]\n"),
    "made.img": ("{n}", '[[disk]]\nfile = "made.img"\ncreate = {{ size = "1M" }}\n'),
    "made2.img.new": ("{n}", '[[disk]]\nfile = "made2.img"\ncreate = {{ size = "1M" }}\n'),
    "log": ("{f}", '[[serial]]\nfile = "log"\n'),
    "newlog": ("{n}", '[[serial]]\nfile = "newlog"\n'),
}


@pytest.fixture
def roots(stage: Stage) -> Path:
    """A directory that root alone may enter, with a file whose words may not get out."""
    directory = stage.directory / "roots"
    directory.mkdir(mode=0o700)
    for name in ("secret", "image"):
        path = directory / name
        path.write_bytes(WORDS.encode().ljust(1 << 20, b"\n"))
        path.chmod(0o600)
    os.mknod(directory / "node", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    return directory


def seen(directory: Path) -> Seen:
    """All that could have been changed in it."""
    found = {}
    for path in (directory, *sorted(directory.iterdir())):
        status = path.lstat()
        words = path.read_text(errors="replace") if stat.S_ISREG(status.st_mode) else ""
        found[path.name] = (status.st_uid, status.st_gid, status.st_mode, words)
    return found


def filled(text: str, directory: Path) -> str:
    names = {"f": "secret", "n": "new", "c": "node"}
    return text.format(d=directory, **{key: directory / name for key, name in names.items()})


def machine(stage: Stage, more: str, name: str = "vm") -> None:
    """The user's profile with more lines: those of [machine] inside it."""
    text = MACHINE.replace("SECONDS", "1").replace('"vm"', f'"{name}"')
    text = text.replace("boot = 0\n", "boot = 1\n")  # a [kernel] has 0
    if more.startswith("[machine]\n"):
        text = text.replace("[machine]\n", more)
    else:
        text += more
    stage.write(f"{name}.toml", text)


def results(stage: Stage, count: int) -> list[tuple[str, str]]:
    """Exit code and words of a run of each of the machines m0, m1, …; one stage for all, because
    each has to get to know its QEMUs anew."""
    done = stage.run(f"for n in $(seq 0 {count - 1}); do s run m$n.toml 2>$n.err; echo $?; done")
    codes = done.stdout.split()
    assert len(codes) == count, done
    words = [(stage.home / f"{n}.err").read_text() for n in range(count)]
    told = [text for text in words if "Traceback" in text or WORDS in text]
    assert not told, told
    return list(zip(codes, words, strict=True))


def test_keys_that_name_it_are_refused(stage: Stage, roots: Path) -> None:
    for number, more in enumerate(KEYS.values()):
        machine(stage, filled(more, roots), f"m{number}")
    before = seen(roots)
    for key, (code, words) in zip(KEYS, results(stage, len(KEYS)), strict=True):
        assert (key, code) == (key, "1"), words
        assert "error: " in words, key
    assert seen(roots) == before


def test_links_are_not_followed_there(stage: Stage, roots: Path) -> None:
    user = stage.home.stat().st_uid
    for number, (link, (target, more)) in enumerate(LINKS.items()):
        machine(stage, filled(more, roots), f"m{number}")
        at = stage.home / link.replace("/vm", f"/m{number}")
        for parent in (p for p in reversed(at.parents) if p.is_relative_to(stage.home)):
            parent.mkdir(exist_ok=True)
            stage.give(parent)
        at.symlink_to(filled(target, roots))
        os.lchown(at, user, user)
    before = seen(roots)
    told = results(stage, len(LINKS))
    assert seen(roots) == before, told
    codes = dict(zip(LINKS, [code for code, _ in told], strict=True))
    assert codes.pop(".local/state/qlaunch/vm/last") == "0"  # a note that is done without
    assert set(codes.values()) == {"1"}, codes
    assert all(WORDS not in p.read_text(errors="replace")
               for p in stage.home.rglob("*.log") if not p.is_symlink())


@pytest.mark.parametrize("kind", ["link", "root's"])
def test_shared_memory_is_not_where_somebody_else_put_it(
    stage: Stage, roots: Path, kind: str
) -> None:
    name = f"qlaunch-test-{os.getpid()}"
    path = Path("/dev/shm") / name
    machine(stage, f'[[shmem]]\nname = "{name}"\nsize = "1M"\n')
    try:
        if kind == "link":
            path.symlink_to(roots / "secret")
            os.lchown(path, *(stage.home.stat().st_uid,) * 2)
        else:
            path.write_bytes(bytes(1 << 20))
            path.chmod(0o600)
        before, status = seen(roots), path.lstat()
        done = stage.run("s run vm.toml; echo $?")
        assert done.stdout == "1\n", done
        after = path.lstat()
        assert seen(roots) == before
        assert (after.st_ino, after.st_uid, after.st_mode) == (
            status.st_ino, status.st_uid, status.st_mode)
    finally:
        path.unlink()


def test_sockets_are_made_by_the_user_in_the_users_directory(stage: Stage, roots: Path) -> None:
    """Root's bind() would follow a link that takes the directory's place."""
    done = stage.run(
        "s run long.toml --detach >&2; stat -c '%u %a' /run/qlaunch/.by-uid/*/long/qmp.sock; "
        "s stop long --force >&2"
    )
    assert done.stdout == f"{stage.home.stat().st_uid} 600\n", done
    before = seen(roots)
    done = stage.run(
        f"mkdir -p /run/qlaunch/.by-uid/54321; chmod 711 /run/qlaunch /run/qlaunch/.by-uid; "
        f"ln -s {roots} /run/qlaunch/.by-uid/54321/vm; "
        "chown -h 54321:54321 /run/qlaunch/.by-uid/54321 /run/qlaunch/.by-uid/54321/vm; "
        "s run vm.toml; echo $?"
    )
    assert done.stdout == "1\n", done
    assert seen(roots) == before
