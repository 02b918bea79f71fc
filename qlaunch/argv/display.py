"""Emulated graphics, and how they are shown."""

from __future__ import annotations

from qlaunch.argv.option import Option, Value, option, place
from qlaunch.plan.display import VGA
from qlaunch.plan.model import Plan
from qlaunch.plan.screen_model import PlannedScreen
from qlaunch.profile.display import Display
from qlaunch.values import Size

_CARD_KEYS = ("resolution", "heads", "edid", "blob", "hostmem", "gfxstream", "cross_domain")
_UNSAID = {key: getattr(Display(), key) for key in _CARD_KEYS}
SECRET = "vnc-password"  # noqa: S105 - an id
_HOSTMEM = Size(8 << 30)  # what QEMU's manual suggests for Vulkan
_SPICE_PLAIN: dict[str, Value | None] = {  # a unix socket is wide enough for everything as it is
    "image-compression": "off", "jpeg-wan-compression": "never",
    "zlib-glz-wan-compression": "never", "playback-compression": False, "streaming-video": "off",
}


def display_options(plan: Plan) -> list[Option]:
    """Emulated card and how it is shown."""
    options = [option("-vga", "none", why="display.vga")]
    if plan.profile.display.vga != "none":
        options.append(_card(plan))
    if plan.profile.display.type == "looking-glass":
        from qlaunch.argv.shmem import shared_memory

        options += [o for s in plan.shmems if s.id == "looking-glass" for o in shared_memory(s)]
    return options + _viewing(plan)


def _screen(plan: Plan) -> PlannedScreen:
    return plan.screen or PlannedScreen()


def _card(plan: Plan) -> Option:
    display, where = plan.profile.display, plan.places.get("vga")
    pairs: dict[str, Value | None] = {"id": "vga"}
    if where is not None:
        pairs |= place(where.bus, where.addr)
    why = ["display.vga"]
    properties = _CARD_PAIRS.get(display.vga)
    if properties is not None:
        pairs |= properties(plan)
        why += [f"display.{key}" for key in _CARD_KEYS if getattr(display, key) != _UNSAID[key]]
        why += [_screen(plan).memory_why] if _screen(plan).memory else []
    # Not by device(): these properties are spelled with the underscore.
    given = tuple((key, value) for key, value in pairs.items() if value is not None)
    return Option("-device", (("", VGA[display.vga]), *given), "; ".join(why))


def _mode(plan: Plan) -> dict[str, Value | None]:
    width, _, height = (plan.profile.display.resolution or "").partition("x")
    return {"xres": int(width), "yres": int(height)} if width else {}


def _mib(plan: Plan) -> int | None:
    memory = _screen(plan).memory
    return memory >> 20 if memory else None


def _std(plan: Plan) -> dict[str, Value | None]:
    return {"vgamem_mb": _mib(plan), "edid": plan.profile.display.edid, **_mode(plan)}


def _qxl(plan: Plan) -> dict[str, Value | None]:
    return {"vgamem_mb": _mib(plan), "max_outputs": plan.profile.display.heads, **_mode(plan)}


def _cirrus(plan: Plan) -> dict[str, Value | None]:
    return {"vgamem_mb": _mib(plan)}


def _bochs(plan: Plan) -> dict[str, Value | None]:
    return {"vgamem": _screen(plan).memory, "edid": plan.profile.display.edid, **_mode(plan)}


def _virtio(plan: Plan) -> dict[str, Value | None]:
    display = plan.profile.display
    return {
        "max_outputs": display.heads, "edid": display.edid, "max_hostmem": _screen(plan).memory,
        **_mode(plan),
    }


def _flat(plan: Plan) -> dict[str, Value | None]:
    display = plan.profile.display
    size = display.hostmem
    return {"blob": display.blob or None, "hostmem": str(size) if size else None, **_virtio(plan)}


def _venus(plan: Plan) -> dict[str, Value | None]:
    size = plan.profile.display.hostmem or _HOSTMEM
    return {"venus": True, "blob": True, "hostmem": str(size), **_virtio(plan)}


def _rutabaga(plan: Plan) -> dict[str, Value | None]:
    display = plan.profile.display
    pairs: dict[str, Value | None] = {
        "gfxstream-vulkan": display.gfxstream or None, "hostmem": str(display.hostmem or _HOSTMEM),
    }
    if display.cross_domain:
        pairs |= {"cross-domain": True, "wayland-socket-path": _screen(plan).wayland or None}
    return {**pairs, **_virtio(plan)}


_CARD_PAIRS = {
    "std": _std, "qxl": _qxl, "cirrus": _cirrus, "bochs": _bochs, "virtio": _flat,
    "virtio-gl": _flat, "venus": _venus, "rutabaga": _rutabaga,
}


# -- what shows it ----------------------------------------------------------------------------


def _viewing(plan: Plan) -> list[Option]:
    kind, why = plan.display, plan.display_why
    if kind in ("spice", "looking-glass"):
        return [option("-display", "none", why=why), _spice(plan)]
    if kind == "vnc":
        return _vnc(plan)
    if kind == "dbus":
        return [_dbus(plan)]
    if kind == "egl-headless":
        return [_headless(plan)]
    return [_window(plan)] if kind in ("gtk", "sdl") else [option("-display", kind, why=why)]


def _gl(plan: Plan) -> dict[str, Value | None]:
    return {"gl": _screen(plan).gl or None}


def _reasons(plan: Plan, *keys: str) -> str:
    """Why: the type, OpenGL, the GPU, and the keys that were given."""
    said, screen = plan.profile.display, _screen(plan)
    why = [plan.display_why, screen.gl_why, screen.render_why]
    why += [f"display.{key}" for key in keys if getattr(said, key) not in (None, False)]
    return "; ".join(dict.fromkeys(part for part in why if part))


def _window(plan: Plan) -> Option:
    display = plan.profile.display
    pairs: dict[str, Value | None] = {
        **_gl(plan), "full-screen": display.full_screen or None,
        "show-cursor": display.show_cursor, "window-close": display.window_close,
    }
    keys = ["full_screen", "show_cursor", "window_close"]
    if plan.display == "gtk":
        pairs |= {
            "zoom-to-fit": display.zoom_to_fit, "show-menubar": display.show_menubar,
            "show-tabs": display.show_tabs, "grab-on-hover": display.grab_on_hover,
        }
        keys += ["zoom_to_fit", "show_menubar", "show_tabs", "grab_on_hover"]
    else:
        pairs["grab-mod"] = display.grab_mod
        keys.append("grab_mod")
    return option("-display", plan.display, why=_reasons(plan, *keys), **pairs)


def _headless(plan: Plan) -> Option:
    node = _screen(plan).render_node or None
    return option("-display", "egl-headless", why=_reasons(plan), rendernode=node)


def _spice(plan: Plan) -> Option:
    display, screen = plan.profile.display, _screen(plan)
    pairs: dict[str, Value | None] = {
        "unix": True, "addr": f"{plan.socket_dir}/spice.sock", "disable-ticketing": True,
        "seamless-migration": False, **({} if display.compression else _SPICE_PLAIN),
        "disable-copy-paste": None if display.copy_paste else True,
        "disable-agent-file-xfer": None if display.file_transfer else True,
        "agent-mouse": display.agent_mouse,
    }
    if screen.gl and plan.display == "spice":
        pairs |= {"gl": screen.gl, "rendernode": screen.render_node or None}
    why = _reasons(plan, "compression", "agent_mouse")
    return option("-spice", why=why, **pairs)


def _vnc(plan: Plan) -> list[Option]:
    display, screen = plan.profile.display, _screen(plan)
    options = []
    if screen.secret is not None:
        options.append(option("-object", "secret", why="display.password_file", id=SECRET,
                              file=f"/proc/self/fd/{screen.secret}"))
    options.append(
        _headless(plan) if screen.gl not in ("", "off")
        else option("-display", "none", why=plan.display_why)
    )
    where = f"unix:{plan.socket_dir}/vnc.sock"
    if display.listen and display.type == "vnc":  # not where it stands in for a window
        host, _, port = display.listen.rpartition(":")
        where = f"{host}:{int(port) - 5900}"  # QEMU counts from VNC's first port
    options.append(option("-vnc", where, why=_reasons(plan, "listen", "password_file"),
                          password_secret=SECRET if screen.secret is not None else None))
    return options


def _dbus(plan: Plan) -> Option:
    screen = _screen(plan)
    audio = "sound" if plan.audio is not None and plan.audio.driver == "dbus" else None
    return option(
        "-display", "dbus", why=_reasons(plan, "bus"), **_gl(plan),
        rendernode=screen.render_node or None, addr=screen.bus or None,
        p2p=True if plan.profile.display.bus == "p2p" else None, audiodev=audio,
    )
