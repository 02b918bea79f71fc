"""The same machine by libvirt, where there is one that answers."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from xml.sax.saxutils import quoteattr

from byhand import Observer
from machine import ENV, MEMORY, NULL, Machine, spawn

NAME = "qlaunch-bench"
VIRSH = ["virsh", "--quiet", "--connect", "qemu:///system"]

# A monitor of its own beside libvirt's, as qlaunch's argv has, so that RESUME is seen the same way.
XML = """\
<domain type={type} xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">
  <name>{name}</name>
  <memory unit="MiB">{memory}</memory>
  <vcpu>{cores}</vcpu>
  {pins}
  <os><type arch="x86_64" machine="q35">hvm</type></os>
  <features><acpi/><apic/><vmport state="off"/></features>
  <cpu mode={cpu}/>
  <devices>
    <emulator>{qemu}</emulator>
    <disk type="file" device="disk">
      <driver name="qemu" type="raw"/><source file={disk}/><target dev="vda" bus="virtio"/>
      <boot order="1"/>
      <address type="pci" bus="0" slot="8"/>
    </disk>
    <interface type="user">
      <model type="virtio"/><address type="pci" bus="0" slot="16"/>
    </interface>
    <video><model type="vga"/><address type="pci" bus="0" slot="1"/></video>
    <controller type="usb" model="none"/>
    <memballoon model="none"/>
  </devices>
  <qemu:commandline>
    <qemu:arg value="-chardev"/><qemu:arg value={chardev}/>
    <qemu:arg value="-mon"/><qemu:arg value="chardev=user,mode=control"/>
  </qemu:commandline>
</domain>
"""


def absent() -> str:
    """Why nothing can be measured, or ""."""
    if shutil.which("virsh") is None:
        return "libvirt is not installed"
    done = _virsh("list")
    return "" if done.returncode == 0 else "libvirtd does not answer"


def version() -> str:
    """libvirt's, or ""."""
    return "" if absent() else _virsh("--version").stdout.strip()


def create(machine: Machine) -> dict[str, float]:
    """Milliseconds from `virsh create` to RESUME, and to its own end."""
    sockets = machine.directory / "libvirt"  # QEMU makes its socket there, as another user
    sockets.mkdir(exist_ok=True)
    sockets.chmod(0o777)
    path = sockets / f"qmp{time.monotonic_ns()}"
    xml = machine.directory / "domain.xml"
    xml.write_text(_xml(machine, path))
    begin = time.time()
    pid = spawn([*VIRSH, "create", str(xml)], {0: NULL, 1: NULL, 2: 2})
    try:
        with Observer(str(path)) as observer:
            resumed = observer.resumed()
    finally:
        _, status = os.waitpid(pid, 0)
        destroy()
    if status:
        raise SystemExit("virsh create failed")
    return {"": (resumed - begin) * 1000}


def destroy() -> None:
    """End it, if it runs."""
    _virsh("destroy", NAME)


def _xml(machine: Machine, path: Path) -> str:
    pins = ""
    if machine.pins:
        vcpus = "".join(f'<vcpupin vcpu="{n}" cpuset="{n}"/>' for n in range(machine.cores))
        pins = f'<cputune>{vcpus}<emulatorpin cpuset="0-1"/></cputune>'
    kvm = machine.accel.startswith("kvm")
    return XML.format(
        type='"kvm"' if kvm else '"qemu"', name=NAME, memory=MEMORY, cores=machine.cores,
        pins=pins, cpu='"host-passthrough"' if kvm else '"maximum"', qemu=machine.argv[0],
        disk=quoteattr(str(machine.directory / "disk.img")),
        chardev=quoteattr(f"socket,id=user,path={path},server=on,wait=off"),
    )


def _virsh(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*VIRSH, *words], capture_output=True, text=True, check=False, env=ENV
    )
