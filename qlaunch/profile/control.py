"""How the machine ends, what runs around it, and the escape hatch to QEMU."""

from __future__ import annotations

from typing import Literal

from qlaunch.profile.table import Annotated, Meta, Table
from qlaunch.values import Duration, Program


class Stop(Table, frozen=True):
    """How the machine ends."""

    timeout: Annotated[
        Duration, Meta(description="How long the guest has to power off before it is stopped.")
    ] = Duration(60)
    on_reboot: Annotated[
        Literal["reset", "shutdown"] | None,
        Meta(description='What a reboot from within does: "reset" (as on a real machine) or '
             '"shutdown", which ends the run.'),
    ] = None
    on_host_sleep: Annotated[
        Literal["inhibit", "allow"] | None,
        Meta(description='"inhibit": while the guest runs, systemd-logind is asked not to let the '
             'host go to sleep; "allow" asks nothing. When absent: "inhibit" for a guest that has '
             "[[pci]] or [[vgpu]], whose devices seldom survive it."),
    ] = None
    on_crash: Annotated[
        Literal["shutdown", "pause", "none"] | None,
        Meta(description="What is done when the guest reports a crash of its own (needs "
             "pvpanic or Hyper-V crash registers)."),
    ] = None


class Hooks(Table, frozen=True):
    """Commands around a run: argv lists, never shell strings."""

    before: Annotated[tuple[tuple[str, ...], ...], Meta(
        description="Before the host steps. They run as root if the profile is root's own, else as "
        "the user who asked; these are refused when root was asked for through pkexec."
    )] = ()
    after: Annotated[
        tuple[tuple[str, ...], ...],
        Meta(description="After all is given back. Ctrl-C, and qlaunch stop --now, end one that "
             "hangs; those after it are not run."),
    ] = ()


class Qemu(Table, frozen=True):
    """The escape hatch."""

    binary: Annotated[
        Program,
        Meta(description="QEMU binary: a name on PATH, or with a slash in it a path. One that is "
             "not root's is refused when root was asked for through pkexec, except in a profile of "
             "root's own.")
    ] = Program("qemu-system-x86_64")
    args: Annotated[
        tuple[str, ...],
        Meta(description="Arguments added verbatim at the end, one a word. What they name is "
             "opened by QEMU, with the rights of the account that it runs as and no capabilities. "
             "Refused are those that name QEMU's open files, which are all qlaunch's (-add-fd, "
             "fd=, /dev/fdset/, /proc/self/fd/); and, when root was asked for through pkexec, all "
             "that are not in a profile of root's own.")
    ] = ()
    env: Annotated[
        dict[str, str] | None, Meta(description="Environment variables for QEMU.")
    ] = None
    set: Annotated[
        dict[str, str | int | bool] | None,
        Meta(description='Device properties, verbatim: {"net0.host_mtu" = 9000} becomes -set.'),
    ] = None
    globals: Annotated[
        dict[str, str | int | bool] | None,
        Meta(
            description='Defaults of all devices of a type, verbatim: '
            '{"virtio-net-pci.host_mtu" = 9000} becomes -global.'
        ),
    ] = None
    user: Annotated[
        str | None,
        Meta(description="Account QEMU runs as when started by root. When absent: the user who "
             "asked through sudo or pkexec; for root itself a uid of the machine's own."),
    ] = None
