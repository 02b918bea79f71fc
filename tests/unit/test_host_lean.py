"""Of pyroute2 only what talks to links is imported, and the rest is there for who asks."""

from __future__ import annotations

import subprocess
import sys


def _said(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_links_need_no_database() -> None:
    said = _said(
        "import sys; from qlaunch.host.net import preload; preload(); "
        "print(*sorted({'pyroute2.iproute', 'pyroute2.ndb', 'pyroute2.conntrack', 'sqlite3', "
        "'pyroute2.ethtool', 'psutil'} & set(sys.modules)))"
    )
    assert said == "pyroute2.iproute"


def test_the_package_is_whole_for_who_asks() -> None:
    said = _said(
        "from qlaunch.host.net import preload; preload(); import pyroute2; "
        "from pyroute2 import IPRoute, NDB, netns; import pyroute2.iproute as part; "
        "print(IPRoute is part.IPRoute, NDB.__module__, netns.__name__, "
        "hasattr(pyroute2, 'nothing_of_that_name'), pyroute2.IPSet.__name__)"
    )
    assert said == "True pyroute2.ndb.main pyroute2.netns False IPSet"


def test_a_package_that_is_imported_already_stays() -> None:
    said = _said(
        "import pyroute2; from qlaunch.host.lean import prepare; prepare('pyroute2'); "
        "prepare('no_such_package'); import sys; "
        "print(sys.modules['pyroute2'] is pyroute2, 'no_such_package' in sys.modules)"
    )
    assert said == "True False"
