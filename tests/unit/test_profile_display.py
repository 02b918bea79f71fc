"""What a profile says of screen and sound that does not go together, and how it is told."""

from __future__ import annotations

import pytest

from qlaunch.late import load
from qlaunch.profile.check import check_profile
from qlaunch.profile.check_audio import BACKENDS_OF
from qlaunch.profile.check_display import CARDS_OF, TYPES_OF
from qlaunch.profile.display import FORMS, Display
from qlaunch.profile.keys import key_text
from tests.fake.plans import profile

BOOT = '[[disk]]\nfile = "/d"\n'


def told(text: str) -> list[str]:
    findings = check_profile(profile(BOOT + text))
    return [f"{f.problem.severity}: {key_text(f.path)}: {f.problem.message}" for f in findings]


CLEAN = [
    "", 'type = "auto"\nvga = "std"', 'type = "spice"\nvga = "qxl"\nheads = 4',
    'type = "gtk"\nvga = "virtio-gl"\nzoom_to_fit = true\nfull_screen = true',
    'type = "sdl"\nvga = "venus"\nhostmem = "4G"\ngl = "es"\ngrab_mod = "rctrl"',
    'type = "vnc"\nlisten = "127.0.0.1:5901"\npassword_file = "/p"',
    'type = "vnc"\nlisten = "[::1]:5901"\npassword_file = "/p"', 'type = "vnc"\ngl = true',
    'type = "looking-glass"\nresolution = "1920x1080"\nhdr = true',
    'type = "looking-glass"\nkvmfr = "/dev/kvmfr0"\ncopy_paste = false',
    'type = "dbus"\nbus = "unix:path=/run/user/1000/bus"\ngl = true',
    'type = "egl-headless"\nvga = "virtio-gl"\nrender_node = "/dev/dri/renderD128"',
    'vga = "std"\nvga_memory = "32M"\nresolution = "3840x2160"\nedid = false',
    'vga = "cirrus"\nvga_memory = "8M"', 'vga = "bochs"\nvga_memory = "64M"',
    'vga = "virtio"\nvga_memory = "300M"', 'vga = "rutabaga"\ncross_domain = true',
    'vga = "rutabaga"\ncross_domain = true\ngfxstream = false',
    'vga = "virtio"\nblob = true\nhostmem = "256M"', 'vga = "virtio"\nblob = true',
    'vga = "virtio-gl"\ntype = "gtk"\nblob = true\nhostmem = "1G"',
]


@pytest.mark.parametrize("text", CLEAN)
def test_what_goes_together(text: str) -> None:
    assert told(f"[display]\n{text}\n") == []


NEEDS_GL = "card needs a display with OpenGL"
FAULTS = {
    'vga = "virtio-gl"': f"error: display.vga: a virtio-gl {NEEDS_GL}",
    'vga = "venus"\ntype = "looking-glass"\nresolution = "1920x1080"':
        f"error: display.vga: a venus {NEEDS_GL}",
    'vga = "venus"\ntype = "gtk"\ngl = false': f"error: display.vga: a venus {NEEDS_GL}",
    'type = "egl-headless"\ngl = false': "error: display.gl: egl-headless is nothing but OpenGL",
    'type = "spice"\ngl = "core"': "error: display.gl: SPICE takes the OpenGL there is",
    'type = "looking-glass"':
        "error: display.type: Looking Glass's memory depends on the resolution",
    'type = "looking-glass"\nkvmfr = "/dev/sda"': "error: display.kvmfr: this is no kvmfr device",
    'type = "looking-glass"\nkvmfr = "/dev/kvmfr0/../sda"':
        "error: display.kvmfr: this is no kvmfr device",
    'type = "vnc"\nlisten = "0.0.0.0:5901"':
        "error: display.listen: VNC without a password for all who reach this address",
    'type = "vnc"\nlisten = ":5901"':
        "error: display.listen: VNC without a password for all who reach this address",
    'type = "vnc"\nlisten = "127.0.0.1:5901"':
        "warning: display.listen: every user of this host can look at the machine",
    'type = "vnc"\nlisten = "10.0.0.1:5901"\npassword_file = "/p"':
        "warning: display.listen: a VNC password is at most 8 characters, and nothing is encrypted",
    'type = "vnc"\nlisten = "127.0.0.1:5800"\npassword_file = "/p"':
        "error: display.listen: VNC has no such port",
    'type = "vnc"\nlisten = "127.0.0.1"':
        'error: display.listen: expected an address and a port like "127.0.0.1:5901"',
    'vga = "std"\nresolution = "full"':
        'error: display.resolution: expected a width and a height like "1920x1080"',
    'type = "dbus"\nbus = "tcp:host=x"':
        'error: display.bus: expected "session", "p2p", or a bus address like "unix:path=/run/bus"',
    'type = "looking-glass"\nresolution = "640x480"\nshared_file = "../etc/passwd"':
        "error: display.shared_file: expected a file's name (letters, digits, . _ -, at most 64)",
    'vga = "std"\nvga_memory = "24M"':
        "error: display.vga_memory: a std card cannot have this much",
    'type = "looking-glass"\nresolution = "99999x99999"':
        "error: display.resolution: no graphics card draws so large a picture",
    'vga = "bochs"\nresolution = "16000x16000"':
        "error: display.resolution: a bochs card has no memory for this",
    'vga = "cirrus"\nvga_memory = "64M"':
        "error: display.vga_memory: a cirrus card cannot have this much",
    'vga = "qxl"\nvga_memory = "4M"':
        "error: display.vga_memory: a qxl card cannot have this much",
    'vga = "rutabaga"\nhostmem = "3G"': "error: display.hostmem: a PCI window is a power of two",
    'vga = "virtio"\nhostmem = "1G"':
        "warning: display.hostmem: this has no effect without blob",
    'vga = "rutabaga"\ngfxstream = false':
        "error: display.gfxstream: a rutabaga card can do nothing then",
    'vga = "std"\nblob = true': 'warning: display.blob: this has no effect with vga = "std"',
    'type = "spice"\nfull_screen = true':
        'warning: display.full_screen: this has no effect with type = "spice"',
    'vga = "std"\nheads = 2': 'warning: display.heads: this has no effect with vga = "std"',
    'vga = "none"\nresolution = "640x480"':
        'warning: display.resolution: this has no effect with vga = "none"',
}  # fmt: skip


@pytest.mark.parametrize(("text", "wanted"), FAULTS.items())
def test_what_does_not(text: str, wanted: str) -> None:
    assert told(f"[display]\n{text}\n") == [wanted]


def test_every_key_of_one_kind_is_in_the_tables() -> None:
    """So that one without effect is told; the rest are the two that decide it."""
    assert {*TYPES_OF, *CARDS_OF, "type", "vga"} == set(Display.__struct_fields__)
    assert set(FORMS) <= set(Display.__struct_fields__)


def test_a_plain_screen_does_not_load_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    from qlaunch.profile import check_devices

    loaded: list[str] = []

    def note(target: str) -> object:
        loaded.append(target)
        return load(target)

    monkeypatch.setattr(check_devices, "load", note)
    assert told('[display]\ntype = "gtk"\nvga = "std"\n') == loaded == []
    assert told('[display]\ntype = "gtk"\ngl = true\n') == []
    assert len(loaded) == 1


AUDIO = {
    "": "", 'model = "usb"': "", 'backend = "jack"\nserver = "x"': "",
    'latency = "20ms"\nbuffer = "40ms"\ntimer_period = "5ms"': "", "capture = false": "",
    'codec = "output"\ncapture = false': "",
    'backend = "spice"': "error: audio.backend: there is no spice viewer to play it",
    'backend = "dbus"': "error: audio.backend: there is no dbus viewer to play it",
    'model = "ac97"\ncodec = "duplex"':
        'warning: audio.codec: this has no effect with model = "ac97"',
    'model = "usb"\naddr = "0b"': 'warning: audio.addr: this has no effect with model = "usb"',
    'backend = "alsa"\nserver = "x"':
        'warning: audio.server: this has no effect with backend = "alsa"',
    'backend = "alsa"\nlatency = "20ms"':
        'warning: audio.latency: this has no effect with backend = "alsa"',
    'codec = "micro"\ncapture = false': "error: audio.capture: this codec has an input",
    'buffer = "2s"': "error: audio.buffer: no sound is made at this pace",
    'timer_period = "0ms"': "error: audio.timer_period: no sound is made at this pace",
}  # fmt: skip


@pytest.mark.parametrize(("text", "wanted"), AUDIO.items())
def test_sound(text: str, wanted: str) -> None:
    assert told(f"[audio]\n{text}\n") == [wanted] * bool(wanted)
    assert set(BACKENDS_OF) == {"server", "latency"}


def test_sound_by_a_viewer_that_is_there() -> None:
    for shown, backend in (("spice", "spice"), ("dbus", "dbus"), ("looking-glass", "spice")):
        display = f'[display]\ntype = "{shown}"\nresolution = "640x480"\nvga = "std"\n'
        assert told(f'{display}[audio]\nbackend = "{backend}"\n') == []
