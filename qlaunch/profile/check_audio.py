"""Rules about sound."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qlaunch.errors import Problem
from qlaunch.profile.audio import Audio
from qlaunch.profile.places import Finding
from qlaunch.profile.profile import Profile

# key -> the backends that have it
BACKENDS_OF: dict[str, tuple[str, ...]] = {
    "server": ("pulse", "jack"), "latency": ("auto", "pipewire", "pulse"),
}


def check_viewers(profile: Profile) -> Iterator[Finding]:
    """Sound that a viewer plays needs that kind of viewer."""
    audio, shown = profile.audio, profile.display.type
    if audio is None:
        return
    types = {"spice": ("spice", "looking-glass"), "dbus": ("dbus",)}.get(audio.backend)
    if types is not None and shown not in types:
        yield Finding(
            ("audio", "backend"),
            Problem(f"there is no {audio.backend} viewer to play it",
                    found=f'display.type = "{shown}"',
                    allowed="display.type = " + " or ".join(f'"{name}"' for name in types),
                    hint='backend = "auto" finds one that fits'),
            also=(("display", "type"),),
        )


def check_idle(profile: Profile) -> Iterator[Finding]:
    """Keys that the backend or the card does not have."""
    audio = profile.audio or Audio()
    for key, backends in BACKENDS_OF.items():
        if getattr(audio, key) is not None and audio.backend not in backends:
            yield _idle(key, "backend", audio.backend, backends)
    if audio.codec is not None and audio.model not in ("hda", "ich9"):
        yield _idle("codec", "model", audio.model, ("hda", "ich9"))
    if audio.addr is not None and audio.model == "usb":
        yield _idle("addr", "model", audio.model, ("hda", "ich9", "ac97", "virtio"))


def check_capture(profile: Profile) -> Iterator[Finding]:
    """A codec with an input is there to capture."""
    audio = profile.audio
    if audio is not None and not audio.capture and audio.codec not in (None, "output"):
        yield Finding(
            ("audio", "capture"),
            Problem("this codec has an input", found=f'codec = "{audio.codec}"',
                    allowed='"output" without capture', hint="leave one of the two out"),
            also=(("audio", "codec"),),
        )


def _idle(key: str, other: str, found: str, allowed: tuple[str, ...]) -> Finding:
    problem = Problem(
        f'this has no effect with {other} = "{found}"',
        allowed=f"with {other} = " + ", ".join(f'"{name}"' for name in allowed),
        severity="warning",
    )
    return Finding(("audio", key), problem, also=(("audio", other),))


def check_durations(profile: Profile) -> Iterator[Finding]:
    """QEMU counts in microseconds, and waits at least one."""
    audio = profile.audio or Audio()
    for key in ("latency", "buffer", "timer_period"):
        value = getattr(audio, key)
        if value is not None and not 0.0001 <= value <= 1:
            yield Finding(("audio", key), Problem(
                "no sound is made at this pace", found=str(value), allowed='"0.1ms" to "1s"'))


AUDIO_CHECKS: tuple[Callable[[Profile], Iterator[Finding]], ...] = (
    check_viewers, check_idle, check_capture, check_durations,
)
