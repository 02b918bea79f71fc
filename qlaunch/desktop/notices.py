"""Commands that send a notification over the session's bus: busctl(1) of systemd, or GLib's
gdbus(1), for desktops without notify-send. Pure.

Sources: the Desktop Notifications Specification 1.2 (Notify), and the documentation of
org.freedesktop.portal.Notification, version 1. A portal answers before its backend has shown
anything, and when that fails (xdg-desktop-portal, src/notification.c): its yes proves little.
"""

from __future__ import annotations

from qlaunch.desktop.words import Kind

_APP = "qlaunch"
_URGENCIES = {"error": 2, "warning": 1}  # critical, normal; else low
_PRIORITIES = {"error": "urgent", "warning": "normal"}
_SERVER = ("org.freedesktop.Notifications", "/org/freedesktop/Notifications",
           "org.freedesktop.Notifications", "Notify")
_PORTAL = ("org.freedesktop.portal.Desktop", "/org/freedesktop/portal/desktop",
           "org.freedesktop.portal.Notification", "AddNotification")


def to_server(kind: Kind, title: str, markup: str, icon: str) -> list[list[str]]:
    """For the desktop's own server; `markup` is text whose & < > are escaped."""
    urgency = str(_URGENCIES.get(kind, 0))
    texts = [_quoted(text) for text in (icon, title, markup)]
    return [
        [*_busctl(_SERVER), "susssasa{sv}i", _APP, "0", icon, title, markup, "0",
         "1", "urgency", "y", urgency, "-1"],
        [*_gdbus(_SERVER), _quoted(_APP), "0", *texts, "[]", f"{{'urgency': <byte {urgency}>}}",
         "-1"],
    ]


def to_portal(kind: Kind, title: str, text: str, ident: str) -> list[list[str]]:
    """For the portal; a second one of the same `ident` takes the first one's place."""
    fields = {"title": title, "body": text, "priority": _PRIORITIES.get(kind, "low")}
    words = [word for key, value in fields.items() for word in (key, "s", value)]
    pairs = ", ".join(f"'{key}': <{_quoted(value)}>" for key, value in fields.items())
    return [
        [*_busctl(_PORTAL), "sa{sv}", ident, str(len(fields)), *words],
        [*_gdbus(_PORTAL), _quoted(ident), f"{{{pairs}}}"],
    ]


def _busctl(method: tuple[str, ...]) -> list[str]:
    return ["busctl", "--user", "--quiet", "--", "call", *method]


def _gdbus(method: tuple[str, ...]) -> list[str]:
    name, path, interface, member = method
    return ["gdbus", "call", "--session", "--dest", name, "--object-path", path,
            "--method", f"{interface}.{member}", "--"]


def _quoted(text: str) -> str:
    """A string in GVariant's text format."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
