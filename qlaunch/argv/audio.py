"""Sound: the backend, and the card that is wired to it."""

from __future__ import annotations

from qlaunch.argv.option import Option, Value, device, option, place
from qlaunch.plan.audio import CARD, HD_AUDIO, codec_of
from qlaunch.plan.model import Plan
from qlaunch.plan.screen_model import PlannedAudio
from qlaunch.profile.audio import Audio

BACKEND = "sound"  # id of the audiodev
# Drivers with a delay of their own beside the buffer (qapi/audio.json).
_LATENCY = ("pa", "pipewire")


def audio_options(plan: Plan) -> list[Option]:
    """-audiodev, the card, and HD Audio's codec."""
    audio, backend = plan.profile.audio, plan.audio
    if audio is None or backend is None:
        return []
    model = CARD[audio.model]
    where = plan.places["audio"]
    spot = place(where.bus, where.addr, where.port)
    if audio.model in HD_AUDIO:
        card = [
            device(model, "audio.model", id="audio", **spot),
            device(codec_of(audio), "audio.codec" if audio.codec else "audio.model", id="codec",
                   bus="audio.0", audiodev=BACKEND),
        ]
    else:
        card = [device(model, "audio.model", id="audio", audiodev=BACKEND, **spot)]
    return [_backend(audio, backend), *card]


def _backend(audio: Audio, backend: PlannedAudio) -> Option:
    why = [backend.why]
    pairs: dict[str, Value | None] = {"id": BACKEND}
    if backend.server:
        pairs["in.server-name" if backend.driver == "jack" else "server"] = backend.server
        if backend.driver == "jack":
            pairs["out.server-name"] = backend.server
        why.append(backend.server_why)
    if not audio.capture and audio.model not in HD_AUDIO:  # those have a codec without an input
        pairs["in.voices"] = 0
    both: dict[str, Value | None] = {
        "mixing-engine": audio.mixing_engine,
        "buffer-length": _microseconds(audio.buffer),
        "latency": _microseconds(audio.latency) if backend.driver in _LATENCY else None,
    }
    for name, value in both.items():
        pairs |= {f"in.{name}": value, f"out.{name}": value}
    pairs["timer-period"] = _microseconds(audio.timer_period)
    why += [f"audio.{key}" for key in ("latency", "buffer", "timer_period", "mixing_engine")
            if getattr(audio, key) is not None]
    why += ["audio.capture"] * (not audio.capture)
    return option("-audiodev", backend.driver, why="; ".join(why), **pairs)


def _microseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1_000_000)
