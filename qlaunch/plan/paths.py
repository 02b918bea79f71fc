"""Where a machine's run-time and lasting files are. Pure: names only."""

from __future__ import annotations

from msgspec import Struct

from qlaunch.facts.model import Invoker


class Paths(Struct, frozen=True):
    """`runtime` holds lock, journal and our sockets (0700, the launcher's own); `sockets` those
    that QEMU's account and the user may reach; `state` what a VM keeps."""

    runtime: str
    sockets: str
    state: str


def runtime_root(root: bool, uid: int, runtime_dir: str) -> str:
    """The directory that holds one directory a running machine."""
    if root:
        return "/run/qlaunch"
    return f"{runtime_dir or f'/run/user/{uid}'}/qlaunch"


def sockets_of(base: str, uid: int, name: str) -> str:
    """Where a machine of root's has the sockets that its account may reach."""
    return f"{base}/.by-uid/{uid}/{name}"


def machine_paths(name: str, invoker: Invoker | None) -> Paths:
    """Paths of one machine; without an invoker those of root."""
    if invoker is None:
        return Paths(f"/run/qlaunch/{name}", f"/run/qlaunch/{name}", f"/var/lib/qlaunch/{name}")
    base = runtime_root(invoker.root, invoker.uid, invoker.runtime_dir)
    runtime = f"{base}/{name}"
    sockets = sockets_of(base, invoker.uid, name) if invoker.root else runtime
    if invoker.root and invoker.asked != invoker.uid:
        return Paths(runtime, sockets, f"/var/lib/qlaunch/{name}")
    return Paths(runtime, sockets, f"{invoker.home}/.local/state/qlaunch/{name}")
