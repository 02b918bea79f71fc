"""Sound: the card's place, and the backend that fits this host.

PipeWire and PulseAudio are reached in the session of the user that QEMU runs as, whoever starts
it: root's own session, if there is one, is not where that user listens.
"""

from __future__ import annotations

from qlaunch.facts.desktop_model import Desktop
from qlaunch.plan.draft import Draft
from qlaunch.plan.screen_model import PlannedAudio
from qlaunch.profile.audio import Audio

CARD = {
    "hda": "intel-hda", "ich9": "ich9-intel-hda", "ac97": "AC97", "usb": "usb-audio",
    "virtio": "virtio-sound-pci",
}
HD_AUDIO = ("hda", "ich9")
_DRIVER = {"pulse": "pa"}  # QEMU's name, where it is another
_VIEWERS = {"spice": "spice", "looking-glass": "spice", "dbus": "dbus"}  # of a display type
_SESSION = ("pipewire", "pulse")  # as tried: PipeWire speaks both


def plan_audio(draft: Draft) -> None:
    """The card's place and its backend, in `decided["audio"]`."""
    audio = draft.profile.audio
    if audio is None:
        return
    draft.need(CARD[audio.model], "audio.model")
    if audio.model in HD_AUDIO:
        draft.need(codec_of(audio), "audio.codec")
    if audio.model == "usb":
        draft.usb_place("audio", "audio", "audio.model")
    else:
        draft.place("audio", "audio", "audio", addr=audio.addr)
    backend, why = _automatic(draft) if audio.backend == "auto" else (
        audio.backend, "audio.backend"
    )
    if audio.backend != "auto":
        _check(draft, backend)
    server, server_why = _server(draft, backend)
    draft.decided["audio"] = PlannedAudio(
        driver=_DRIVER.get(backend, backend), why=why, server=server, server_why=server_why
    )


def codec_of(audio: Audio) -> str:
    """The device type of HD Audio's codec."""
    return f"hda-{audio.codec or ('duplex' if audio.capture else 'output')}"


def _automatic(draft: Draft) -> tuple[str, str]:
    """The sound server of the user's session, which needs no viewer; else the viewer's."""
    shown, desktop = str(draft.decided.get("display")), draft.facts.desktop
    for backend in _SESSION:
        if _has(draft, backend) and (desktop is None or backend in desktop.sockets):
            return backend, f"rule: {backend} runs in the user's session, and this QEMU speaks it"
    viewer = _VIEWERS.get(shown, "")
    if viewer and _has(draft, viewer):
        return viewer, f"rule: no sound server is there, and a {viewer} viewer plays sound"
    draft.problem(
        "the machine has a sound card, and nobody to play it", "audio.backend",
        found=_missing(draft, desktop or Desktop()), severity="warning",
        hint='backend = "alsa" plays on the card itself; "none" is silent on purpose',
    )
    return "none", "rule: there is no sound server that this QEMU could use"


def _missing(draft: Draft, desktop: Desktop) -> str:
    there = [name for name in _SESSION if name in desktop.sockets]
    if there:
        qemu = draft.facts.qemu
        return f"{' and '.join(there)}, and a QEMU with {', '.join(qemu.audiodevs if qemu else ())}"
    return no_session(draft)


def no_session(draft: Draft) -> str:
    """Why there is no sound server."""
    user = draft.facts.invoker
    if user is None:
        return "no session"
    if not user.runtime_dir:
        return f"the user {user.name} is not logged in: no /run/user/{user.uid}"
    return f"no pipewire-0 or pulse/native in {user.runtime_dir}"


def _has(draft: Draft, backend: str) -> bool:
    qemu = draft.facts.qemu
    return qemu is None or not qemu.audiodevs or _DRIVER.get(backend, backend) in qemu.audiodevs


def _check(draft: Draft, backend: str) -> None:
    """A backend by name: one that QEMU lacks, or whose server is not there, stops the start."""
    qemu, desktop = draft.facts.qemu, draft.facts.desktop
    if not _has(draft, backend) and qemu is not None:
        from qlaunch.plan.packages import install_hint

        draft.problem(
            f"this QEMU cannot play sound through {backend}", "audio.backend",
            found=f"it has: {', '.join(qemu.audiodevs)}",
            hint=install_hint(f"audiodev {_DRIVER.get(backend, backend)}", qemu.version),
        )
    elif backend in _SESSION and desktop is not None and backend not in desktop.sockets and (
        not draft.profile.audio or draft.profile.audio.server is None
    ):
        user = draft.facts.invoker
        draft.problem(
            f"there is no {backend} in the session of the user that QEMU runs as",
            "audio.backend", found=no_session(draft),
            hint=f"log in as {user.name if user else 'that user'}, or let the session live on: "
            f"loginctl enable-linger {user.name if user else 'USER'}",
        )


def _server(draft: Draft, backend: str) -> tuple[str, str]:
    """PulseAudio's socket in full: QEMU's own search ends in the launcher's session."""
    audio, desktop = draft.profile.audio, draft.facts.desktop
    if audio is not None and audio.server is not None and backend in ("pulse", "jack"):
        return audio.server, "audio.server"
    if backend == "pulse" and desktop is not None and "pulse" in desktop.sockets:
        return f"unix:{desktop.sockets['pulse']}", "rule: the session of the user QEMU runs as"
    return "", ""
