"""Where this user's machines are: root's in /run/qlaunch, others' in their runtime directory."""

from __future__ import annotations

import os

from qlaunch.plan.paths import runtime_root


def runtime_base() -> str:
    """The directory with one directory a machine."""
    from qlaunch.facts.invoker import read_invoker

    invoker = read_invoker()
    return runtime_root(os.geteuid() == 0, invoker.uid, invoker.runtime_dir)
