"""Shared directories: daemons of both kinds, 9p, rights, and what is refused."""

from __future__ import annotations

import msgspec
import pytest

from qlaunch.argv.render import render_argv
from qlaunch.facts.model import HostFacts, HostFile
from qlaunch.plan.model import Plan
from qlaunch.plan.wanted import facts_wanted
from qlaunch.profile.check_shares import SHARE_CHECKS
from tests.fake.plans import QEMU, ROOT, USER, host, planned, profile, said

BARE = msgspec.structs.replace(QEMU, devices=("virtio-9p-pci",))
RUST, IN_C = "/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"
ONE = '[[share]]\npath = "/srv/a"\ntag = "a"\n'


def facts(virtiofsd: str = RUST, *, file: object = None, **more: object) -> HostFacts:
    found = file or HostFile(path="/srv/a", kind="directory")
    programs = {"virtiofsd": virtiofsd, "unshare": "/usr/bin/unshare"}
    return host(programs=programs, files=(found,), **more)


def options(plan: Plan, flag: str) -> list[str]:
    argv = render_argv(plan)
    return [argv[i + 1] for i, word in enumerate(argv) if word == flag]


def test_the_daemon_in_rust() -> None:
    plan = planned(ONE + 'cache = "none"\nread_only = true\nxattr = true\n', facts())
    assert said(plan) == said(plan, "note") == []
    (helper,) = plan.helpers
    assert helper.argv == (
        RUST, "--fd=3", "--shared-dir=/srv/a", "--cache=never", "--sandbox=namespace",
        "--announce-submounts", "--rlimit-nofile=0", "--xattr", "--readonly",
    )
    assert (helper.socket, helper.inner_fd, helper.id) == ("listen", 3, "share0")
    fd = plan.fd("helper", "share0")
    assert f"socket,id=share0-virtiofsd,fd={fd}" in options(plan, "-chardev")
    (device,) = (d for d in options(plan, "-device") if d.startswith("vhost-user-fs-pci"))
    where = plan.places["share0"]
    assert device == (
        "vhost-user-fs-pci,id=share0,chardev=share0-virtiofsd,tag=a,queue-size=1024,"
        f"bus={where.bus},addr={where.addr}"
    )


def test_the_daemon_in_c_gets_a_user_namespace_and_quoted_paths() -> None:
    path = "/srv/a,b\\\\c"  # one backslash, in TOML
    file = HostFile(path="/srv/a,b\\c", kind="directory")
    plan = planned(f'[[share]]\npath = "{path}"\ntag = "a"\n', facts(IN_C, file=file))
    assert said(plan) == []
    assert said(plan, "note") == [
        "share[0]: through this virtiofsd only the guest's root can make files"
    ]
    assert plan.helpers[0].argv == (
        "/usr/bin/unshare", "--user", "--map-root-user", IN_C, "--fd=3", "-o",
        "source=/srv/a\\,b\\\\c,cache=auto,announce_submounts", "--rlimit-nofile=0",
    )
    assert plan.helpers[0].name == "virtiofsd"
    assert plan.helpers[0].groups is False
    assert planned(ONE, facts()).helpers[0].groups is True


def test_the_daemon_in_c_is_not_for_ordinary_users() -> None:
    message = "share[0]: this virtiofsd cannot be started by an ordinary user"
    assert said(planned(ONE, facts(IN_C, invoker=USER))) == [message]
    assert said(planned(ONE, facts(RUST, invoker=USER))) == []
    alone = msgspec.structs.replace(USER, groups=())
    assert said(planned(ONE, facts(IN_C, invoker=alone))) == []


def test_the_daemon_in_c_as_root_needs_no_namespace_of_ours() -> None:
    root = msgspec.structs.replace(ROOT, uid=0, gid=0, name="root", asked=0)
    plan = planned(ONE, facts(IN_C, invoker=root))
    assert plan.helpers[0].argv[0] == IN_C
    assert said(plan, "note") == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("read_only = true", "share[0].read_only: this virtiofsd cannot share a directory for "
         "reading only"),
        ('sandbox = "none"', "share[0].sandbox: this virtiofsd cannot do without its sandbox"),
    ],
)
def test_what_the_one_in_c_lacks(line: str, message: str) -> None:
    assert said(planned(ONE + line, facts(IN_C))) == [message]
    assert said(planned(ONE + line, facts(RUST))) == []


def test_virtiofs_has_memory_that_its_daemon_can_map_and_9p_needs_none() -> None:
    shared = [o for o in options(planned(ONE, facts()), "-object") if "share=on" in o]
    assert len(shared) == 1
    assert shared[0].startswith("memory-backend-memfd,")
    plan = planned(ONE + 'type = "9p"\n', facts())
    assert not any("memory-backend" in o for o in options(plan, "-object"))
    assert plan.helpers == ()


@pytest.mark.parametrize(
    ("lines", "rest"),
    [
        ("", "multidevs=remap,security_model=mapped-xattr"),
        ('read_only = true\nsecurity_model = "none"\n',
         "multidevs=remap,readonly=on,security_model=none"),
    ],
)
def test_9p_is_qemus_own(lines: str, rest: str) -> None:
    plan = planned(ONE + 'type = "9p"\n' + lines, facts(""))
    assert said(plan) == []
    assert options(plan, "-fsdev") == [f"local,id=share0-dir,path=/srv/a,{rest}"]
    (device,) = (d for d in options(plan, "-device") if d.startswith("virtio-9p-pci"))
    assert device.startswith("virtio-9p-pci,id=share0,fsdev=share0-dir,bus=")
    assert device.endswith(",mount_tag=a")


@pytest.mark.parametrize("kind", ["virtiofs", "9p"])
def test_rights_are_those_of_the_account(kind: str) -> None:
    """A user's profile that root runs must not export what the user cannot read."""
    text = ONE + f'type = "{kind}"\n'
    denied = HostFile(path="/srv/a", kind="directory", readable=False, writable=False)
    for invoker in (USER, ROOT, msgspec.structs.replace(ROOT, asked=0)):
        who = "you" if invoker is USER else "user, who QEMU runs as,"
        found = facts(file=denied, invoker=invoker)
        assert said(planned(text, found)) == [
            f"share[0].path: {who} may not read this directory"
        ]
        half = msgspec.structs.replace(denied, readable=True)
        found = facts(file=half, invoker=invoker)
        assert said(planned(text, found)) == []
        warned = said(planned(text, found), "warning")
        assert f"share[0].path: {who} may not write to this directory, and the guest can do no " \
            "more" in warned
        calm = planned(text + "read_only = true\n", found)
        assert not [line for line in said(calm, "warning") if "share" in line]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such directory"), ("file", "this is no directory"),
        ("denied", "user, who QEMU runs as, may not read this directory"),
    ],
)
def test_what_is_no_directory(kind: str, message: str) -> None:
    file = HostFile(path="/srv/a", kind=kind, readable=kind == "file")  # type: ignore[arg-type]
    assert said(planned(ONE, facts(file=file))) == [f"share[0].path: {message}"]


def test_what_is_missing_is_named_with_its_package() -> None:
    plan = planned(ONE, facts(""))
    assert said(plan) == ["share[0]: virtiofsd is not installed"]
    assert "virtiofsd (Debian 13, Fedora, Arch)" in next(
        p.hint for p in plan.problems if p.severity == "error"
    )
    lacking = planned(ONE, msgspec.structs.replace(facts(), qemu=BARE))
    assert said(lacking) == ["share[0].type: this QEMU has no device vhost-user-fs-pci"]
    assert facts_wanted(profile(ONE), holders=False).programs == ("virtiofsd", "unshare")
    ninep = facts_wanted(profile(ONE + 'type = "9p"\n'), holders=False)
    assert (ninep.programs, ninep.files) == ((), ("/srv/a",))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (ONE, []),
        ('guest = "windows10"\n' + ONE, []),
        ('guest = "windows7"\n' + ONE, ["warning: Windows 7 has no driver for it"]),
        ('guest = "windows11"\n' + ONE + 'type = "9p"', ["warning: Windows has no driver for 9p"]),
        (ONE + ONE, ["error: share[0] has the same tag"]),
        (ONE + 'type = "9p"\ncache = "none"\nxattr = true',
         ["error: only virtiofs has this", "error: only virtiofs has this"]),
        (ONE + 'security_model = "none"', ["error: only 9p has this"]),
    ],
)
def test_contradictions(text: str, found: list[str]) -> None:
    findings = [f for check in SHARE_CHECKS for f in check(profile(text))]
    assert [f"{f.problem.severity}: {f.problem.message}" for f in findings] == found
