"""A real QEMU: what it is allowed and where it runs, readiness, and how its end is told."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from qlaunch.errors import HostError
from qlaunch.plan.model import Account, PinPlan
from qlaunch.values import CpuSet
from qlaunch.vm.loop import asyncio, exited
from qlaunch.vm.monitor import Monitor, QmpError
from qlaunch.vm.pin import pin_threads, read_threads, verify
from qlaunch.vm.ready import Pace, wait_ready
from qlaunch.vm.stop import Stopped
from qlaunch.vm.watch import End, StopRequests, watch
from tests.fake.loop import run
from tests.qemu.conftest import Machine, Start

pytestmark = pytest.mark.qemu

NOBODY = Account(uid=65534, gid=65534, name="nobody", groups=(65533,))


async def ready(machine: Machine) -> Monitor:
    return await wait_ready(
        machine.control, machine.process, timeout=60, last_words=machine.words
    )


def status(machine: Machine) -> dict[str, list[str]]:
    text = Path(f"/proc/{machine.process.pid}/status").read_text()
    return {name: rest.split() for name, _, rest in (ln.partition(":") for ln in text.splitlines())}


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes nobody")
def test_confinement(start: Start) -> None:
    machine = start(account=NOBODY, memlock=4 << 20)

    async def main() -> None:
        async with await ready(machine):
            found = status(machine)
            assert found["Uid"] == ["65534"] * 4
            assert found["Gid"] == ["65534"] * 4
            assert found["Groups"] == ["65533"]
            assert found["CapPrm"] == found["CapEff"] == ["0" * 16]
            assert found["NoNewPrivs"] == ["1"]
            assert found["Seccomp"] == ["2"]
            limits = Path(f"/proc/{machine.process.pid}/limits").read_text()
            assert re.search(r"Max locked memory +4194304 +4194304 ", limits)
            assert re.search(r"Max core file size +0 +0 ", limits)
            assert os.getpgid(machine.process.pid) == machine.process.pid

    run(main())


def test_open_files_are_the_planned_ones(start: Start) -> None:
    os.set_inheritable(stray := os.open("/etc/hostname", os.O_RDONLY), True)
    try:
        machine = start()
    finally:
        os.close(stray)

    async def main() -> None:
        async with await ready(machine):
            place = Path(f"/proc/{machine.process.pid}/fd")
            files = {int(fd.name): str(fd.readlink()) for fd in place.iterdir()}
            assert "/etc/hostname" not in files.values()
            assert files[0] == "/dev/null"
            assert files[1] == files[2] == str(machine.log)
            for number in (100, 101, 102):
                assert files[number].startswith("socket:"), number
            own = {path for n, path in files.items() if 2 < n < 100 and path.startswith("/")}
            assert {path for path in own if not path.startswith("/dev/")} <= {
                str(machine.log.parent / "disk.img")
            }

    run(main())


def test_all_threads_are_pinned_and_read_back(start: Start, two_cpus: tuple[int, int]) -> None:
    low, high = CpuSet(two_cpus[:1]), CpuSet(two_cpus[1:])
    machine = start("-smp", "2", "-object", "iothread,id=io0", cpus=low)

    async def main() -> None:
        async with await ready(machine) as monitor:
            pid = machine.process.pid
            tasks = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
            assert {os.sched_getaffinity(t) == set(low) for t in tasks} == {True}, "before pinning"
            threads = await read_threads(monitor, pid)
            assert len(threads.vcpus) == 2
            assert list(threads.iothreads) == ["io0"]
            assert pid in threads.emulator
            assert {*threads.vcpus, *threads.iothreads.values(), *threads.emulator} >= set(tasks)
            plan = PinPlan(vcpus=(high, low), emulator=low, iothreads=high)
            pinned = pin_threads(threads, plan)
            assert all(one.wanted == one.actual for one in pinned)
            assert os.sched_getaffinity(threads.vcpus[0]) == set(high)
            assert os.sched_getaffinity(threads.vcpus[1]) == set(low)
            assert os.sched_getaffinity(threads.iothreads["io0"]) == set(high)
            assert {one.tid for one in pinned} >= {
                int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()
            }
            assert verify(pinned) == []
            os.sched_setaffinity(threads.vcpus[0], low)
            moved = verify(pinned)
            assert [p.severity for p in moved] == ["warning"]
            assert f"vcpu 0 may not run on CPU {high}" in moved[0].message

    run(main())


def test_vcpus_without_a_plan_leave_the_emulators_cpus(
    start: Start, two_cpus: tuple[int, int]
) -> None:
    low = CpuSet(two_cpus[:1])
    machine = start(cpus=low)

    async def main() -> None:
        async with await ready(machine) as monitor:
            threads = await read_threads(monitor, machine.process.pid)
            pin_threads(threads, PinPlan(emulator=low))
            assert os.sched_getaffinity(threads.vcpus[0]) == os.sched_getaffinity(0)
            assert os.sched_getaffinity(machine.process.pid) == set(low)
            with pytest.raises(HostError, match="2 vCPUs are pinned, QEMU has 1"):
                pin_threads(threads, PinPlan(vcpus=(low, low)))
            with pytest.raises(HostError, match="vcpu 0 cannot run on CPU 8000: not online"):
                pin_threads(threads, PinPlan(vcpus=(CpuSet([8000]),)))

    run(main())


def test_guest_boots_and_powers_off_by_itself(start: Start) -> None:
    machine = start("-smp", "2", seconds=1)
    told: list[str] = []

    async def main() -> End:
        async with await ready(machine) as monitor:
            assert (await monitor.execute("query-status"))["status"] == "prelaunch"
            await monitor.execute("cont")
            text = await asyncio.to_thread(machine.read_serial, "qlaunch: done")
            assert "qlaunch: test cpus=2 memory=64M" in text
            with StopRequests() as requests:
                return await watch(monitor, machine.process, requests, timeout=60, log=told.append)

    end = run(main())
    assert (end.reason, end.guest_initiated, end.exit.code, end.clean) == ("guest", True, 0, True)
    assert "the machine shuts down, asked by the guest (guest-shutdown)" in told


def test_two_monitors_at_once(start: Start) -> None:
    machine = start()

    async def main() -> None:
        async with (
            await ready(machine) as one,
            await Monitor.connect(machine.qmp, timeout=60) as two,
        ):
            for monitor in (one, two, one):
                assert (await monitor.execute("query-status"))["running"] is False
            await one.execute("cont")
            event = await two.events.get()
            assert event is not None
            assert event.name == "RESUME"
            assert event.seconds > 1e9
            with pytest.raises(QmpError, match=r"DeviceNotFound") as caught:
                await two.execute("device_del", {"id": "nothing"})
            assert caught.value.error_class == "DeviceNotFound"
            schema = await two.execute("query-qmp-schema")
            assert len(schema) > 100
        again = await Monitor.connect(machine.qmp, timeout=60)
        await again.close()
        assert machine.process.poll() is None

    run(main())


def test_refused_option_is_told_in_qemus_words(start: Start) -> None:
    machine = start("-device", "no-such-card")

    async def main() -> None:
        with pytest.raises(HostError) as caught:
            await ready(machine)
        text = str(caught.value)
        assert "QEMU ended before it was ready (status 1)" in text
        assert "'no-such-card' is not a valid device model name" in text

    run(main())


def test_a_qemu_that_never_answers(start: Start) -> None:
    machine = start()
    machine.process.send(signal.SIGSTOP)
    told: list[str] = []

    async def main() -> None:
        with pytest.raises(HostError, match="QEMU did not answer within"):
            await wait_ready(
                machine.control, machine.process, timeout=0.5, on_progress=told.append,
                pace=Pace(quiet=0.1, every=0.1, stall=0.2),
            )  # fmt: skip

    run(main())
    assert machine.process.poll() is None
    assert any(text.startswith("waiting for QEMU: ") for text in told)


def test_killed_qemu(start: Start) -> None:
    machine = start()
    told: list[str] = []

    async def main() -> End:
        async with await ready(machine) as monitor:
            with StopRequests() as requests:
                watching = asyncio.ensure_future(
                    watch(monitor, machine.process, requests, timeout=60, log=told.append)
                )
                pending = asyncio.ensure_future(exited(machine.process))
                machine.process.send(signal.SIGKILL)
                await pending
                end = await watching
            with pytest.raises(HostError, match="QEMU closed the connection"):
                await monitor.execute("query-status")
            return end

    end = run(main())
    assert (end.reason, end.clean, end.detail) == ("died", False, "signal SIGKILL")
    assert end.exit.signal == 9
    assert "QMP has ended: QEMU closed the connection" in told


def test_killed_while_a_command_is_unanswered(start: Start) -> None:
    machine = start()

    async def main() -> None:
        async with await ready(machine) as monitor:
            machine.process.send(signal.SIGSTOP)
            asking = asyncio.ensure_future(monitor.execute("query-cpus-fast"))
            with pytest.raises(HostError, match="did not answer query-status within"):
                await monitor.execute("query-status", timeout=0.1)
            machine.process.send(signal.SIGKILL)
            with pytest.raises(HostError, match="ended before QEMU answered query-cpus-fast"):
                await asking
            await monitor.wait_closed()

    run(main())


def test_ended_by_somebody_else(start: Start) -> None:
    machine = start(paused=False)

    async def main() -> End:
        async with await ready(machine) as monitor:
            machine.process.send(signal.SIGTERM)
            with StopRequests() as requests:
                return await watch(monitor, machine.process, requests, timeout=60)

    end = run(main())
    assert (end.reason, end.guest_initiated, end.detail) == ("host", False, "host-signal")
    assert Stopped(None, ()).by is None
