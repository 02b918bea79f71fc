"""A desktop's notification server and its portal, which print what they are told as JSON lines.

Run by the system's Python, which has GLib's bindings: `notifications.py [server] [portal]`.
"""

import json
import sys

from gi.repository import Gio, GLib  # type: ignore[import-not-found]

NAMES = {
    "server": ("org.freedesktop.Notifications", "/org/freedesktop/Notifications",
               "org.freedesktop.Notifications"),
    "portal": ("org.freedesktop.portal.Desktop", "/org/freedesktop/portal/desktop",
               "org.freedesktop.portal.Notification"),
}
METHODS = {
    "server": ("Notify", ("s", "u", "s", "s", "s", "as", "a{sv}", "i"), ("u",)),
    "portal": ("AddNotification", ("s", "a{sv}"), ()),
}


def xml(which: str) -> str:
    """Its interface, for introspection."""
    method, given, returned = METHODS[which]
    words = [f'<arg type="{kind}" direction="in"/>' for kind in given]
    words += [f'<arg type="{kind}" direction="out"/>' for kind in returned]
    return (f'<node><interface name="{NAMES[which][2]}"><method name="{method}">'
            f'{"".join(words)}</method></interface></node>')


def say(text: str) -> None:
    """A line of output."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def called(_bus, _sender, _path, interface, _method, given, answer) -> None:  # type: ignore[no-untyped-def]
    """One notification."""
    say(json.dumps([interface, *given.unpack()]))
    server = interface == NAMES["server"][2]
    answer.return_value(GLib.Variant("(u)", (1,)) if server else None)


bus = Gio.bus_get_sync(Gio.BusType.SESSION)
for which in sys.argv[1:]:
    name, place, _ = NAMES[which]
    (interface,) = Gio.DBusNodeInfo.new_for_xml(xml(which)).interfaces
    bus.register_object(place, interface, called, None, None)
    bus.call_sync("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
                  "RequestName", GLib.Variant("(su)", (name, 0)), None, 0, -1)
say("ready")
GLib.MainLoop().run()
