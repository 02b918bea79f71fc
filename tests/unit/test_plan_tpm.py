"""The TPM: interface and swtpm by version, where its state is, and what is refused."""

from __future__ import annotations

import msgspec
import pytest

from qlaunch.argv.render import render_argv
from qlaunch.facts.model import HostFacts
from qlaunch.plan.model import Plan
from qlaunch.plan.wanted import facts_wanted
from qlaunch.profile.check import check_windows11
from qlaunch.profile.check_tpm import check_tpm
from tests.fake.plans import QEMU, USER, host, planned, profile, said

BARE = msgspec.structs.replace(QEMU, devices=("tpm-tis",))


def facts(**more: object) -> HostFacts:
    return host(programs={"swtpm": "/usr/bin/swtpm"}, **more)


def options(plan: Plan, flag: str) -> list[str]:
    argv = render_argv(plan)
    return [argv[i + 1] for i, word in enumerate(argv) if word == flag]


@pytest.mark.parametrize(
    ("text", "device", "state", "words"),
    [
        ("[tpm]", "tpm-crb", "tpm2", ("--tpm2",)),
        ('[tpm]\nmodel = "tis"', "tpm-tis", "tpm2", ("--tpm2",)),
        ('[tpm]\nversion = "1.2"', "tpm-tis", "tpm12", ()),
    ],
)
def test_interface_and_state_by_version(
    text: str, device: str, state: str, words: tuple[str, ...]
) -> None:
    plan = planned(text, facts())
    assert said(plan) == []
    (helper,) = plan.helpers
    place = f"/home/user/.local/state/qlaunch/vm/{state}"
    assert helper.argv == (
        "/usr/bin/swtpm", "socket", "--tpmstate", f"dir={place},mode=0600",
        "--ctrl", "type=unixio,clientfd=3", "--terminate", *words,
    )
    assert (helper.directories, helper.files, helper.inner_fd) == ((place,), (), 3)
    fd = plan.fd("helper", "tpm0")
    assert f"socket,id=tpm0-swtpm,fd={fd}" in options(plan, "-chardev")
    assert options(plan, "-tpmdev") == ["emulator,id=tpm0-backend,chardev=tpm0-swtpm"]
    assert f"{device},id=tpm0,tpmdev=tpm0-backend" in options(plan, "-device")
    assert not plan.needs_root


@pytest.mark.parametrize(
    ("invoker", "place"),
    [
        (msgspec.structs.replace(USER, root=True, asked=0), "/var/lib/qlaunch/vm/tpm2"),
        (msgspec.structs.replace(USER, home="/home/a,b"), "/home/a,b/.local/state/qlaunch/vm/tpm2"),
    ],
)
def test_a_directory_that_swtpm_cannot_name_is_handed_over(invoker: object, place: str) -> None:
    (helper,) = planned("[tpm]", facts(invoker=invoker)).helpers
    assert helper.argv[3] == "dir=/proc/self/fd/4,mode=0600"
    assert helper.files == ((4, place, False),)
    assert helper.directories == (place,)


def test_without_a_tpm_nothing_of_it() -> None:
    plan = planned("", facts())
    assert plan.helpers == ()
    assert not any("tpm" in word for word in render_argv(plan))
    assert facts_wanted(profile(""), holders=False).programs == ()
    assert "swtpm" in facts_wanted(profile("[tpm]"), holders=False).programs


def test_what_is_missing_is_named_with_its_package() -> None:
    plan = planned("[tpm]", host(qemu=BARE, programs={"swtpm": ""}))
    assert said(plan) == [
        "tpm: swtpm is not installed", "tpm.model: this QEMU has no device tpm-crb",
    ]
    assert plan.problems[0].hint == "install swtpm (Debian, Fedora, Arch, openSUSE)"


def test_windows_11_without_one_is_a_note() -> None:
    notes = list(check_windows11(profile('guest = "windows11"')))
    assert [f.problem.severity for f in notes] == ["note"]
    for text in ('guest = "windows11"\n[tpm]', 'guest = "windows10"', ""):
        assert list(check_windows11(profile(text))) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[tpm]", []),
        ('guest = "windows11"\n[tpm]', []),
        ('[tpm]\nversion = "1.2"\nmodel = "tis"', []),
        ('[tpm]\nversion = "1.2"\nmodel = "crb"', ["error: a TPM 1.2 has no such interface"]),
        ('guest = "windows11"\n[tpm]\nversion = "1.2"', ["warning: Windows 11 needs a TPM 2.0"]),
    ],
)
def test_contradictions(text: str, found: list[str]) -> None:
    findings = list(check_tpm(profile(text)))
    assert [f"{f.problem.severity}: {f.problem.message}" for f in findings] == found
