"""Sound: the guest's card, and who on the host plays what comes out of it."""

from __future__ import annotations

from typing import Literal

from qlaunch.profile.fields import Slot
from qlaunch.profile.table import Annotated, Meta, Table
from qlaunch.values import Duration


class Audio(Table, frozen=True):
    """A sound card for the guest."""

    model: Annotated[
        Literal["hda", "ich9", "ac97", "usb", "virtio"],
        Meta(description='The card: "ich9" and "hda" are Intel HD Audio, "ac97" is for old guests, '
             '"usb" needs no slot, "virtio" is for Linux (QEMU 8.2 and newer).'),
    ] = "ich9"
    codec: Annotated[
        Literal["duplex", "micro", "output"] | None,
        Meta(description="What HD Audio offers the guest: line in and out, microphone and speaker, "
             "or output only; duplex when absent, output without capture."),
    ] = None
    backend: Annotated[
        Literal[
            "auto", "pipewire", "pulse", "alsa", "jack", "oss", "sdl", "spice", "dbus", "none"
        ],
        Meta(description='Who plays the sound. "auto" takes the sound server of the user\'s '
             "session, else the SPICE or D-Bus viewer."),
    ] = "auto"
    server: Annotated[
        str | None,
        Meta(description="The PulseAudio or JACK server; that of the user's session when absent. "
             'For pulse e.g. "unix:/run/user/1000/pulse/native".'),
    ] = None
    capture: Annotated[
        bool, Meta(description="Whether the guest may hear the host's microphone.")
    ] = True
    latency: Annotated[
        Duration | None,
        Meta(description='How far a PipeWire or PulseAudio server may lag behind, e.g. "20ms".'),
    ] = None
    buffer: Annotated[
        Duration | None, Meta(description='The length of the backend\'s buffers, e.g. "40ms".')
    ] = None
    timer_period: Annotated[
        Duration | None,
        Meta(description='How often QEMU moves sound on; 10 ms when absent, "5ms" stutters less.'),
    ] = None
    mixing_engine: Annotated[
        bool | None,
        Meta(description="Whether QEMU converts and mixes sound itself, as it does when absent."),
    ] = None
    addr: Slot = None
