"""What a running QEMU is, as the kernel tells it: who, with which powers, files and limits.

Three ways to start it: root for itself, root asked through sudo, an ordinary user.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qlaunch.facts.own_uid import is_own
from qlaunch.facts.probe import find_program
from tests.fake.users import UID, Stage

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users"),
    pytest.mark.skipif(
        not shutil.which("setpriv")
        or subprocess.run(["unshare", "-m", "true"], check=False).returncode != 0,
        reason="needs mount namespaces",
    ),
]
NAME = f"isolated{os.getpid()}"  # pgrep sees the machines of other tests too
MACHINE = f"""\
name = "{NAME}"
[machine]
memory = "64M"
accel = "tcg"
[[disk]]
file = "disk.img"
[[net]]
user = {{}}
[qemu]
env = {{ QLAUNCH_OWN = "1" }}
[stop]
timeout = "1s"
"""
VIRTIOFSD = find_program("virtiofsd")
LOCKED = "[memory]\nlock = true\n"
FILTERED = 2  # SECCOMP_MODE_FILTER
# As most hosts have it; here and there the old hierarchy is mounted over it.
UNIFIED = "[ -e /sys/fs/cgroup/cgroup.controllers ] || mount -t cgroup2 none /sys/fs/cgroup; "
# Of the process, and of what of ours could be seen or reached.
LOOK = r"""
import json, os, re, subprocess, sys
name, base, states = sys.argv[1:]
(pid,) = subprocess.check_output(["pgrep", "-f", f"[g]uest={name},"], text=True).split()
proc = f"/proc/{pid}"
text = lambda name: open(f"{proc}/{name}", "rb").read().decode()
fds = {int(n): os.readlink(f"{proc}/fd/{n}") for n in os.listdir(f"{proc}/fd")}
paths = {
    os.path.join(at, n): (lambda s: [s.st_uid, oct(s.st_mode & 0o7777)])(
        os.lstat(os.path.join(at, n)))
    for top in (base, states) for at, ds, fs in os.walk(top) for n in [*ds, *fs]
}
def helper(pid):
    at = f"/proc/{pid}"
    return {
        "name": open(f"{at}/comm").read().strip(), "user": os.readlink(f"{at}/ns/user"),
        "status": lines(open(f"{at}/status").read()),
        "environ": open(f"{at}/environ").read().split("\0")[:-1],
        "fds": {n: os.readlink(f"{at}/fd/{n}") for n in os.listdir(f"{at}/fd")},
    }
lines = lambda text: dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
group = "/sys/fs/cgroup" + text("cgroup").split("0::")[1].strip()
beside = open(f"{group}/cgroup.procs").read().split() if name in group else []
print(json.dumps({
    "helpers": [helper(p) for p in beside if p != pid], "user": os.readlink("/proc/self/ns/user"),
    "status": lines(text("status")),
    "flags": {n: text(f"fdinfo/{n}").split("flags:")[1].split()[0] for n in fds},
    "fds": fds, "environ": text("environ").split("\0")[:-1], "limits": text("limits"),
    "cmdline": text("cmdline").split("\0"), "cwd": os.readlink(f"{proc}/cwd"), "paths": paths,
    "group": os.getpgid(int(pid)) == int(pid), "cgroup": text("cgroup"),
    "ours": open("/proc/self/cgroup").read(),
}))
"""


@pytest.fixture
def stage() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="qlaunch-user-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        made = Stage(directory)
        made.write("disk.img", bytes(1 << 20))
        made.write("vm.toml", MACHINE)
        made.write("locked.toml", MACHINE + LOCKED)
        yield made


def look(stage: Stage, start: str, stop: str, base: str, states: str) -> dict[str, Any]:
    """What there is to see of the machine while it runs."""
    done = stage.run(
        f'{UNIFIED}{start} --detach >&2; "$PYTHON" -c "$LOOK" {NAME} "{base}" "{states}"; '
        f"{stop} {NAME} --now >&2; find /sys/fs/cgroup -name 'qlaunch-{NAME}'",
        PYTHON=shutil.which("python3") or "python3", LOOK=LOOK, LAUNCHERS_OWN="not QEMU's",
    )
    assert done.stdout, done
    line, *groups = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return {**found, "groups": groups}


def check_process(
    found: dict[str, Any], uid: int, gid: int, group: str = f"/qlaunch-{NAME}"
) -> None:
    """What holds however it was started; the stage leaves its user CAP_DAC_READ_SEARCH."""
    status = found["status"]
    assert status["Uid"].split() == [str(uid)] * 4
    assert status["Gid"].split() == [str(gid)] * 4
    assert [int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Amb")] == [0] * 4
    assert (int(status["Seccomp"]), status["NoNewPrivs"]) == (FILTERED, "1")
    assert (status["Umask"], found["cwd"], found["group"]) == ("0077", "/", True)
    assert re.search(r"Max core file size +0 +0 ", found["limits"])
    ours = re.search(r"^0::(.*)$", found["ours"], re.MULTILINE)
    assert ours
    own = ours[1].rstrip("/") + group
    assert found["cgroup"] == re.sub("(?m)^0::.*$", f"0::{own or '/'}", found["ours"])
    assert found["groups"] == []
    names = {line.partition("=")[0] for line in found["environ"]}
    assert "QLAUNCH_OWN" in names
    assert names <= {"PATH", "HOME", "LANG", "XDG_RUNTIME_DIR", "QLAUNCH_OWN"}
    check_fds(found)


def check_fds(found: dict[str, Any]) -> None:
    """0 to 2, the planned numbers, and what QEMU has opened itself: none of the launcher's."""
    fds = {int(number): link for number, link in found["fds"].items()}
    assert fds[0] == "/dev/null"
    assert fds[1] == fds[2]
    assert fds[1].endswith(f"/{NAME}/qemu.log")
    told = " ".join(found["cmdline"])
    named = {int(n) for n in re.findall(r"(?:fd=|fdset/|addr\.str=)(\d{3})\b", told)}
    planned = {number for number in fds if 100 <= number < 150}
    locks = {number for number in planned if fds[number].endswith("/lock")}
    assert len(locks) == 1
    modes = {int(found["flags"][str(number)], 8) & os.O_ACCMODE for number in locks}
    assert modes == {os.O_RDONLY}  # what it says is the launcher's to write
    moved = {int(n) for n in re.findall(r"fd=(\d+),set=", told)}  # QEMU keeps a copy of its own
    assert planned == (named | locks) - moved, (fds, told)
    rest = {link for number, link in fds.items() if number > 2 and number not in planned}
    of_files = {link for link in rest if link.startswith("/")}
    assert of_files <= {"/dev/kvm", "/dev/urandom"} | {
        link for link in of_files if link.endswith("/disk.img") or link.startswith("/memfd:")
    }, of_files
    assert not [link for link in fds.values() if "journal" in link or "supervisor" in link]


def check_helpers(found: dict[str, Any], uid: int) -> None:
    """In the machine's cgroup, as its uid, with nothing of the launcher's; virtiofsd has power
    over a user namespace of its own, and no more."""
    names = {helper["name"] for helper in found["helpers"]}
    assert names == {"swtpm", *(["virtiofsd"] if VIRTIOFSD else [])}
    serving = set()
    for helper in found["helpers"]:
        status = helper["status"]
        assert status["Uid"].split() == [str(uid)] * 4, helper
        assert status["Gid"].split() == [str(uid)] * 4, helper
        assert set(status["Groups"].split()) <= {str(uid), kvm_group()}, helper
        assert helper["user"] != found["user"] or int(status["CapEff"], 16) == 0, helper
        if (int(status["Seccomp"]), status["NoNewPrivs"]) == (FILTERED, "1"):
            serving.add(helper["name"])
        assert {e.partition("=")[0] for e in helper["environ"]} <= {"PATH", "HOME", "LANG"}
        for link in helper["fds"].values():
            ours = link.endswith(("/lock", "/journal", "/supervisor", "disk.img", "/helpers"))
            assert not ours, helper
    assert serving == names


def memlock(found: dict[str, Any]) -> list[str]:
    line = next(x for x in found["limits"].splitlines() if x.startswith("Max locked memory"))
    words: list[str] = line.split()[3:5]
    return words


def only_the_owners(found: dict[str, Any], base: str, owners: set[int]) -> None:
    """Nothing of the machine's may be reached by others; a directory to pass through is 0711."""
    through = {base, f"{base}/.by-uid"}
    for path, (uid, mode) in found["paths"].items():
        assert uid in owners, path
        if path not in through:
            behind = any(
                int(found["paths"].get(str(p), [0, "0o777"])[1], 8) & 0o077 == 0
                for p in Path(path).parents
            )
            assert behind or int(mode, 8) & 0o077 == 0, (path, mode)


def test_root_asked_by_a_user(stage: Stage) -> None:
    base, states = "/run/qlaunch", f"{stage.home}/.local/state/qlaunch"
    limit = str((64 << 20) + (1 << 30))
    may = ["prlimit", f"--memlock={limit}", "true"]  # not in every container
    locks = subprocess.run(may, capture_output=True, check=False).returncode == 0
    found = look(stage, f"s run {'locked' if locks else 'vm'}", "s stop", base, states)
    check_process(found, UID, UID)
    assert found["status"]["Groups"].split() == [str(UID)]
    assert not locks or memlock(found) == [limit, limit]
    only_the_owners(found, base, {0, UID})
    sockets = {p: o for p, o in found["paths"].items() if p.endswith(".sock")}
    assert sockets[f"{base}/{NAME}/control.sock"][0] == 0
    assert sockets[f"{base}/.by-uid/{UID}/{NAME}/qmp.sock"][0] == UID
    assert found["paths"][f"{base}/{NAME}"] == [0, "0o700"]


def kvm_group() -> str:
    """Of /dev/kvm, which an account is given where only its group may use it."""
    return str(Path("/dev/kvm").stat().st_gid) if Path("/dev/kvm").exists() else ""


def test_root_for_itself(stage: Stage) -> None:
    root = Path(tempfile.mkdtemp(dir=Path.home(), prefix=".qlaunch-test-"))
    try:
        shutil.copy(stage.home / "disk.img", root)
        folder = stage.directory / "shared"
        folder.mkdir()
        folder.chmod(0o777)
        share = f"[[share]]\npath = '{folder}'\ntag = 'x'\n" if VIRTIOFSD else ""
        (root / "vm.toml").write_text(f"{MACHINE}[tpm]\n{share}")
        base = "/run/qlaunch"
        found = look(stage, f"cd '{root}'; q run vm", "q stop", base, "/var/lib/qlaunch")
        uid = int(found["status"]["Uid"].split()[0])
        assert is_own(uid)
        check_helpers(found, uid)
        check_process(found, uid, uid)
        assert set(found["status"]["Groups"].split()) <= {str(uid), kvm_group()}
        only_the_owners(found, base, {0, uid})
        assert found["paths"][f"{base}/.by-uid/{uid}/{NAME}/qmp.sock"] == [uid, "0o600"]
        assert found["paths"][f"/var/lib/qlaunch/{NAME}"] == [0, "0o700"]
    finally:
        shutil.rmtree(root)


def test_an_ordinary_user(stage: Stage) -> None:
    base = f"/run/user/{UID}/qlaunch"
    found = look(stage, "u run vm", "u stop", base, f"{stage.home}/.local/state/qlaunch")
    check_process(found, UID, UID, group="")
    only_the_owners(found, base, {UID})
    assert found["paths"][f"{base}/{NAME}"] == [UID, "0o700"]


# A QEMU of the user's own: it frees what it was lent, lets go of it, and shows another name.
FREES = """\
#!/usr/bin/python3
import fcntl, os, sys
for number in range(100, 150):
    try:
        if os.readlink(f"/proc/self/fd/{number}").endswith("/lock"):
            fcntl.flock(number, fcntl.LOCK_UN)
            os.close(number)
    except OSError:
        pass
words = [w.replace("guest=", "guest=not-") for w in sys.argv[1:]]
os.execvp("qemu-system-x86_64", ["qemu-system-x86_64", *words])
"""
FREED = f"""
{UNIFIED}s run freed --detach >&2; echo started $?
launcher=$(cat /run/qlaunch/{NAME}/supervisor)
qemu=$(pgrep -f '[g]uest=not-{NAME},')
kill -9 $launcher
while kill -0 $launcher; do sleep 0.1; done 2>/dev/null
python3 - <<'END'
import fcntl, os
fcntl.flock(os.open("/run/qlaunch/{NAME}/lock", os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
print("unlocked")
END
q ps | grep -o 'unsupervised'
s run freed; echo run $?
kill -0 $qemu && echo lives
q stop {NAME} --now >&2; echo stopped $?
find /run/qlaunch -name '*{NAME}*'
"""


@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="needs a Python all may run")
def test_a_qemu_that_frees_its_lock_is_still_the_machines(stage: Stage) -> None:
    stage.write("frees", FREES).chmod(0o755)
    stage.write("freed.toml", MACHINE.replace("[qemu]\n", "[qemu]\nbinary = './frees'\n"))
    done = stage.run(FREED)
    assert done.stdout.splitlines() == [
        "started 0", "unlocked", "unsupervised", "run 1", "lives", "stopped 0",
    ], done
    assert f"error: /run/qlaunch/{NAME}: {NAME} is running" in done.stderr


# Set-user-ID root, as a wrapper of somebody's could be: what the environment says is the caller's.
HOOKED = 'hooks={before=[["id", "-u"], ["id", "-G"], ["false"]]}'
SETUID = """
p() {{ PKEXEC_UID={uid} {python} -m qlaunch "$@"; }}
x() {{ SUDO_UID=0 SUDO_GID=0 PKEXEC_UID=0 PYTHONPATH="$PYTHONPATH" HOME=/ \\
    setpriv --ruid={uid} --euid=0 --clear-groups -- {python} -m qlaunch "$@"; }}
try() {{ echo "== $*" >&2; "$@"; echo $? >&2; }}
cp vm.toml disk.img /run
printf '[hooks]\\nbefore = [["id", "-u"], ["id", "-G"], ["false"]]\\n' | cat vm.toml - >hooked.toml
cp hooked.toml /run
chown {uid} hooked.toml /run/disk.img
chmod 644 /run/*.toml
try s run hooked
try s run /run/hooked.toml
try s run /run/vm.toml --set "$hooked"
try p run hooked
try p run /run/hooked.toml
try p run /run/vm.toml --set "$hooked"
try x run hooked
try x run /run/vm.toml --set "$hooked"
try x run /run/hooked.toml
try q run hooked
try q run /run/hooked.toml
"""


def test_only_roots_own_profiles_have_roots_hooks(stage: Stage) -> None:
    """All others' run as who asked through sudo; through pkexec or a set-user-ID program none."""
    done = stage.run(SETUID.format(uid=UID, python=f"'{sys.executable}'"), hooked=HOOKED)
    said = {}
    for part in done.stderr.split("== ")[1:]:
        first, _, rest = part.partition("\n")
        said[first.replace(HOOKED, "HOOKED")] = rest
    theirs = {name for name, text in said.items() if f"\n{UID}\n" in text}
    roots = {name for name, text in said.items() if "\n0\n" in text}
    refused = {name for name, text in said.items() if "root does not act on a profile" in text}
    unsaid = {name for name, text in said.items() if "only a profile of root's own may" in text}
    assert theirs == {"s run hooked", "s run /run/vm.toml --set HOOKED"}, done.stderr
    assert roots == {f"{way} run /run/hooked.toml" for way in "sxpq"}, done.stderr
    assert unsaid == {
        f"{way} run {what}" for way in "px" for what in ("hooked", "/run/vm.toml --set HOOKED")
    }, done.stderr
    assert refused == {"q run hooked"}, done.stderr


@pytest.fixture
def drives(stage: Stage) -> Iterator[list[str]]:
    """Two block devices that only root may open."""
    found: list[str] = []
    for number in (1, 2):
        image = stage.directory / f"drive{number}"
        image.write_bytes(bytes(1 << 20))
        done = subprocess.run(["losetup", "-f", "--show", str(image)], capture_output=True,
                              text=True, check=False)
        found += done.stdout.split()
    try:
        if len(found) < 2:
            pytest.skip("needs loop devices")
        yield found
    finally:
        for path in found:
            subprocess.run(["losetup", "-d", path], check=True)


def test_root_opens_the_block_device_that_was_checked_and_no_other(
    stage: Stage, drives: list[str]
) -> None:
    """A user's hook runs between the plan and the opening, and puts a link elsewhere. That the
    path leads to a file by then is seen by the look after the hooks."""
    secret = stage.directory / "secret"
    secret.write_bytes(bytes(1 << 20))
    secret.chmod(0o600)
    targets = {"same": drives[0], "other": drives[1], "file": str(secret)}
    drive = MACHINE.replace("disk.img", "drive")
    for name, target in targets.items():
        hook = f'[hooks]\nbefore = [["ln", "-sfn", "{target}", "{stage.home}/drive"]]\n'
        stage.write(f"{name}.toml", drive + hook)
    done = stage.run("".join(
        f"rm -f drive; ln -s {drives[0]} drive; chown -h {UID} drive\n"
        f"s run {name} --detach >&2; echo {name} $?; s stop {NAME} --now >&2\n" for name in targets
    ))
    assert done.stdout.splitlines() == ["same 0", "other 1", "file 1"], done.stderr
    told = "drive: this is not the block device that was checked before"
    assert done.stderr.count(told) == 1, done.stderr
