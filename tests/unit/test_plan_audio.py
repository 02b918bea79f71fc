"""Sound: cards, and who plays it when QEMU runs as the desktop's user and root starts it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from qlaunch.argv.render import render_argv
from qlaunch.errors import Problem
from qlaunch.facts.desktop_model import Desktop
from qlaunch.facts.model import HostFacts, Invoker, QemuBinary
from qlaunch.plan.model import Plan
from tests.fake.plans import ROOT, host, planned, said
from tests.fake.snapshots import qemu72, qemu100

PULSE = {"pulse": "/run/user/1000/pulse/native"}
BOTH = {**PULSE, "pipewire": "/run/user/1000/pipewire-0"}


def modern() -> QemuBinary:
    """One with PipeWire, whatever the machine lacked where the facts were recorded."""
    qemu = qemu100()
    return replace(qemu, audiodevs=tuple({*qemu.audiodevs, "pipewire"}))


def facts(
    sockets: dict[str, str] | None = None, *, qemu: QemuBinary | None = None,
    invoker: Invoker = ROOT,
) -> HostFacts:
    desktop = Desktop(sockets=BOTH if sockets is None else sockets)
    return host(qemu=qemu or modern(), desktop=desktop, invoker=invoker)


def heard(text: str = "", where: HostFacts | None = None, display: str = "none") -> Plan:
    return planned(f'[display]\ntype = "{display}"\n[audio]\n{text}\n', where or facts())


def option(plan: Plan, flag: str) -> list[str]:
    argv = render_argv(plan)
    return [argv[i + 1] for i, word in enumerate(argv) if word == flag]


def one(plan: Plan, severity: str = "error") -> Problem:
    (problem,) = [p for p in plan.problems if p.severity == severity]
    return problem


CARDS = {
    "": ["ich9-intel-hda,id=audio,bus=pcie.0,addr=1b.0",
         "hda-duplex,id=codec,bus=audio.0,audiodev=sound"],
    'model = "hda"\ncodec = "micro"': ["intel-hda,id=audio,bus=pcie.0,addr=1b.0",
                                       "hda-micro,id=codec,bus=audio.0,audiodev=sound"],
    "capture = false": ["ich9-intel-hda,id=audio,bus=pcie.0,addr=1b.0",
                        "hda-output,id=codec,bus=audio.0,audiodev=sound"],
    'model = "ac97"\naddr = "0b"': ["AC97,id=audio,audiodev=sound,bus=pcie.0,addr=0b.0"],
    'model = "virtio"': ["virtio-sound-pci,id=audio,audiodev=sound,bus=pcie.0,addr=1b.0"],
}


@pytest.mark.parametrize(("text", "wanted"), CARDS.items())
def test_cards(text: str, wanted: list[str]) -> None:
    plan = heard(text)
    assert said(plan) == []
    assert [d for d in option(plan, "-device") if "audio" in d] == wanted


def test_a_usb_card_has_a_controller_before_it() -> None:
    plan = heard('model = "usb"')
    assert said(plan) == []
    devices = option(plan, "-device")
    card = "usb-audio,id=audio,audiodev=sound,bus=usb.0,port=8"
    (number,) = [n for n, d in enumerate(devices) if d == card]
    assert any("usb" in d and "id=usb" in d for d in devices[:number])


def test_the_codec_of_the_pc_machine() -> None:
    plan = planned('[machine]\ntype = "pc"\n[audio]\n', facts())
    assert said(plan) == []
    assert "ich9-intel-hda,id=audio,bus=pci.0,addr=1b.0" in option(plan, "-device")


PLAYED = [
    (BOTH, modern(), "none", "pipewire,id=sound"),
    (BOTH, qemu72(), "none", "pa,id=sound,server=unix:/run/user/1000/pulse/native"),
    (PULSE, modern(), "none", "pa,id=sound,server=unix:/run/user/1000/pulse/native"),
    (BOTH, modern(), "spice", "pipewire,id=sound"),
    ({}, modern(), "spice", "spice,id=sound"),
    ({}, modern(), "looking-glass", "spice,id=sound"),
    ({}, modern(), "dbus", "dbus,id=sound"),
    ({}, modern(), "gtk", "none,id=sound"),
    (BOTH, replace(modern(), audiodevs=("none", "alsa", "oss")), "none", "none,id=sound"),
]


@pytest.mark.parametrize(("sockets", "qemu", "display", "wanted"), PLAYED)
def test_who_plays_it(
    sockets: dict[str, str], qemu: QemuBinary, display: str, wanted: str
) -> None:
    plan = heard("", facts(sockets, qemu=qemu), display)
    assert option(plan, "-audiodev") == [wanted]
    warnings = [w for w in said(plan, "warning") if w.startswith("audio")]
    assert bool(warnings) == wanted.startswith("none")


def test_nobody_to_play_it_is_told_with_the_reason() -> None:
    lacks = replace(modern(), audiodevs=("none", "alsa"))
    problem = one(heard("", facts(qemu=lacks)), "warning")
    assert problem.found == "pipewire and pulse, and a QEMU with none, alsa"
    problem = one(heard("", facts({})), "warning")
    assert problem.found == "no pipewire-0 or pulse/native in /run/user/1000"
    away = replace(ROOT, runtime_dir="")
    problem = one(heard("", facts({}, invoker=away)), "warning")
    assert problem.found == "the user user is not logged in: no /run/user/1000"


def test_the_dbus_display_names_its_sound() -> None:
    sockets = {"bus": "/run/user/1000/bus"}
    plan = heard("", facts(sockets), "dbus")
    assert option(plan, "-display") == ["dbus,addr=unix:path=/run/user/1000/bus,audiodev=sound"]
    argv = render_argv(plan)
    assert argv.index("-audiodev") < argv.index("-display")
    assert option(heard("", facts({**BOTH, **sockets}), "dbus"), "-display") == [
        "dbus,addr=unix:path=/run/user/1000/bus"
    ]


def test_a_backend_by_name() -> None:
    for backend, driver in (("alsa", "alsa"), ("jack", "jack"), ("sdl", "sdl"), ("none", "none")):
        plan = heard(f'backend = "{backend}"', facts({}))
        assert (said(plan), option(plan, "-audiodev")) == ([], [f"{driver},id=sound"])
    problem = one(heard('backend = "pipewire"', facts(qemu=qemu72())))
    assert problem.message == "this QEMU cannot play sound through pipewire"
    assert problem.hint == (
        "it came with QEMU 8.1; with that, install qemu-system-gui (Debian), "
        "qemu-audio-pipewire (Fedora), qemu-audio-pipewire (Arch)"
    )
    for backend in ("pulse", "pipewire"):
        problem = one(heard(f'backend = "{backend}"', facts({})))
        assert problem.message == (
            f"there is no {backend} in the session of the user that QEMU runs as"
        )
        assert problem.hint.endswith("loginctl enable-linger user")


def test_a_qemu_that_does_not_say_is_believed() -> None:
    silent = replace(modern(), audiodevs=())
    assert said(heard('backend = "jack"', facts(qemu=silent))) == []


def test_a_server_of_the_users_own() -> None:
    plan = heard('backend = "pulse"\nserver = "tcp:10.0.0.2"', facts({}))
    assert (said(plan), option(plan, "-audiodev")) == ([], ["pa,id=sound,server=tcp:10.0.0.2"])
    plan = heard('backend = "jack"\nserver = "studio"')
    assert option(plan, "-audiodev") == [
        "jack,id=sound,in.server-name=studio,out.server-name=studio"
    ]


def test_delays() -> None:
    text = 'latency = "20ms"\nbuffer = "40ms"\ntimer_period = "5ms"\nmixing_engine = false\n'
    assert option(heard(text), "-audiodev") == [
        "pipewire,id=sound,in.mixing-engine=off,out.mixing-engine=off,in.buffer-length=40000,"
        "out.buffer-length=40000,in.latency=20000,out.latency=20000,timer-period=5000"
    ]
    silent = option(heard(text + 'backend = "none"'), "-audiodev")[0]
    assert "latency" not in silent  # the driver has none
    assert option(heard('model = "ac97"\ncapture = false'), "-audiodev") == [
        "pipewire,id=sound,in.voices=0"
    ]


def test_virtio_sound_came_late() -> None:
    problem = one(heard('model = "virtio"', facts(qemu=qemu72())))
    assert problem.message == "this QEMU has no device virtio-sound-pci"
    assert "QEMU 8.2" in problem.hint
