"""What a desktop does with entries, by GLib, which GNOME's, Xfce's and MATE's menus are made with.

Run by the system's Python: `menu.py list`, or `menu.py launch ID [ACTION]`.
"""

import json
import sys

from gi.repository import Gio  # type: ignore[import-not-found]

if sys.argv[1] == "list":
    found = [
        [app.get_id(), app.get_name(), app.list_actions()]
        for app in Gio.AppInfo.get_all()
        if app.should_show() and app.get_id().startswith("qlaunch-")
    ]
    sys.stdout.write(json.dumps(found))
elif len(sys.argv) > 3:
    Gio.DesktopAppInfo.new(sys.argv[2]).launch_action(sys.argv[3], None)
else:
    assert Gio.DesktopAppInfo.new(sys.argv[2]).launch([], None)
