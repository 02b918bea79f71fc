"""One run of a machine in its numbered order: 2 claim the name, 3 plan, 4 claim the devices,
5 host steps, 6 open what QEMU inherits, 7 start it, 8 wait and pin, 9 watch, 10 give back, 11 say.

Whatever is raised from stage 2 on, stage 10 is carried out to its end. The order and what must
hold after each fault are told in contrib/DESIGN.md.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from qlaunch.argv.render import render_argv
from qlaunch.errors import HostError
from qlaunch.host.handler import Host
from qlaunch.host.net import attach_tap
from qlaunch.host.netchild import NetChild
from qlaunch.plan.model import Plan
from qlaunch.plan.steps import MakeBridge, MakeMacvtap
from qlaunch.run.account import group_of, run_hooks
from qlaunch.run.after import run_after
from qlaunch.run.handover import Handover, opened
from qlaunch.run.info import Info, info_of, note_start, write_info
from qlaunch.run.journal import (
    FILE_NAME,
    End,
    Journal,
    Stage,
    create_journal,
    make_header,
    read_journal,
)
from qlaunch.run.locks import HostLock
from qlaunch.run.prepare import claim_devices, claim_name, make_socket_directory, open_logs
from qlaunch.run.story import QEMU_LOG, Story
from qlaunch.run.terminal import Interrupts, closing, ended_on_failure
from qlaunch.values import CpuSet
from qlaunch.vm.process import QemuProcess, last_words, log_offset
from qlaunch.vm.spawn import start_qemu

if TYPE_CHECKING:
    from qlaunch.profile.read import Loaded
    from qlaunch.run.claims import Claim
    from qlaunch.run.engine import Engine, Event, Outcome
    from qlaunch.vm.helpers import Helpers
    from qlaunch.vm.watch import Beside
    from qlaunch.vm.watch import End as MachineEnd


class Session:
    """Carries one plan out. `run` may be called once."""

    def __init__(
        self,
        loaded: Loaded,
        make_plan: Callable[[bool], Plan],
        story: Story,
        *,
        base: str,
        terminal: bool = True,
        net: NetChild | None = None,
        on_running: Callable[[], None] = lambda: None,
    ) -> None:
        self.loaded = loaded
        self.make_plan = make_plan
        self.story = story
        self.base = base
        self.terminal = terminal
        self.on_running = on_running
        self.interrupts = Interrupts(story.say)
        self.net = net or NetChild()
        self.host = Host(net=self.net, on_wait=self._on_wait)
        self.journal: Journal | None = None
        self.engine: Engine | None = None
        self.claims: list[Claim] = []
        self.awake: int | None = None  # the host may sleep once this is closed
        self.status: int | None = None  # QEMU's, once it has ended by itself

    # -- the order ---------------------------------------------------------------------------

    def run(self) -> int:
        """The whole. Returns the exit code. Raises QlaunchError for what kept the guest from
        running, with the host as it was (or NotRestoredError)."""
        nets = self.loaded.profile.net
        if os.geteuid() == 0 and any(net.bridge or net.nat or net.macvtap for net in nets):
            self.net.start()
        with self.interrupts, contextlib.closing(self.net), contextlib.ExitStack() as stack:
            try:
                lock, plan = self._prepare(stack)
            except KeyboardInterrupt as error:
                raise self.interrupts.before_a_run(error) from None
            return self._carry_out(plan, lock)

    def _prepare(self, stack: contextlib.ExitStack) -> tuple[int, Plan]:
        """Stages 2 and 3, and the log."""
        self.stage(2, "claiming the name")
        name = self.loaded.profile.name
        lock = claim_name(self.base, name, stack, self.story, self.host)
        self.stage(3, "planning")
        # What a hook ends (a desktop, say) may hold a device until the hook has run.
        plan = self.make_plan(not self.loaded.profile.hooks.before)
        self.qemu_log = open_logs(plan, stack, self.story)
        self.stage(4, "claiming the devices")
        return lock, plan

    def _carry_out(self, plan: Plan, lock: int) -> int:
        end: MachineEnd | None = None
        failure: BaseException | None = None
        try:
            try:
                end = self._do(plan, lock)
            finally:
                self.interrupts.disarm()
        except BaseException as error:
            failure = error
        from qlaunch.run.verdict import tell_end

        self.status = end.exit.code if end is not None and not end.rungs else None
        outcome = self._give_back(plan, stuck=end is not None and end.reason == "stuck")
        return tell_end(plan.name, end, failure, outcome, self.story)

    def _do(self, plan: Plan, lock: int) -> MachineEnd:
        """Stages 4 to 9."""
        profile = str(self.loaded.sources[0].path)
        info = info_of(plan, profile, time.time(), trusted=self.loaded.trusted)
        write_info(info)  # what takes things away again, and recovery, read it
        make_socket_directory(plan)
        if plan.makes:
            from qlaunch.run.makes import make_files

            make_files(plan, self.story.say)
        plan = claim_devices(self.base, plan, self.claims, self.story, self.host, self.make_plan)
        if plan.vgpus:  # perhaps others than before
            info = info_of(plan, profile, info.started, trusted=self.loaded.trusted)
            write_info(info)
        self.journal = create_journal(
            Path(plan.runtime_dir), make_header(self.host, plan.name, profile)
        )
        if plan.profile.hooks.before:
            run_hooks(plan.profile.hooks.before, plan.account, self.loaded.trusted, self.story.say)
            self.make_plan(True)  # refuses what is still held
        self.stage(5, f"{len(plan.steps)} host steps")
        self._apply(plan)
        return self._live(plan, info, lock)

    def stage(self, number: int, text: str) -> None:
        """Enter a stage: told in the journal once there is one, and in the log."""
        self.story.note(f"[{number}] {text}")
        if self.journal is not None:
            self.journal.write(Stage(stage=str(number), detail=text))

    # -- stages 2 to 5 -----------------------------------------------------------------------

    def _apply(self, plan: Plan) -> None:
        if not plan.steps or self.journal is None:
            return
        from qlaunch.host.handlers import HANDLERS
        from qlaunch.run.engine import Engine, is_own

        self.engine = Engine(self.host, self.journal, HANDLERS, self._report)
        if all(map(is_own, plan.steps)):
            self.engine.apply(plan.steps)
            return
        with HostLock(self.base, self.story.say):
            self.engine.apply(plan.steps)

    # -- stages 6 to 9 -----------------------------------------------------------------------

    def _live(self, plan: Plan, info: Info, lock: int) -> MachineEnd:
        self.stage(6, "opening what QEMU inherits")
        with contextlib.ExitStack() as stack:
            helpers: Helpers | None = None
            with opened(plan, lock, self.claims) as handover:
                self.awake = handover.awake
                if plan.helpers:
                    from qlaunch.run.helpers import helped

                    helpers = stack.enter_context(
                        helped(plan, self.qemu_log, handover, self.story.say)
                    )
                taps, terminal = handover.taps.copy(), handover.terminal
                self.stage(7, "starting QEMU")
                offset = log_offset(self.qemu_log)
                self.interrupts.hold()
                process = self._start(plan, handover)
            for held in (process, ended_on_failure(process), closing(terminal)):
                stack.enter_context(held)
            # Now, while QEMU builds its machine: what takes time and is not needed before.
            from qlaunch.run.live import Life, live
            from qlaunch.run.oom import explained

            note_start(plan, process)
            log = f"{plan.state_dir}/{QEMU_LOG}"
            life = Life(
                control=info.control, pins=plan.pins, memory=info.memory,
                ready_timeout=plan.ready_timeout, stop_timeout=info.stop_timeout,
                devices=len(info.devices), last_words=lambda: last_words(log, offset),
                before_cont=lambda: self._attach(taps), stage=self._running,
                asked=lambda: self.interrupts.pending, tell=self.story.say, terminal=terminal,
                sink=1 if self.terminal else self.qemu_log, helpers=helpers,
                beside=self._beside(plan, info),
            )
            end = explained(lambda: live(process, life, self.story.note), process, plan.cgroup,
                            plan.runtime_dir)
            if end.reason == "died":
                why = end.detail or last_words(log, offset) or "without a word"
                self.story.say(f"QEMU died ({end.exit}): {why}")
            return end

    def _start(self, plan: Plan, handover: Handover) -> QemuProcess:
        return start_qemu(
            render_argv(plan), fds=handover.fds, stderr_fd=self.qemu_log, account=plan.account,
            memlock=plan.memlock if os.geteuid() == 0 or _locks(plan) else None,
            cpus=_starting_cpus(plan), env=plan.profile.qemu.env, cgroup=group_of(plan),
        )

    def _attach(self, taps: list[tuple[str, str, int | None]]) -> None:
        for tap in taps:
            attach_tap(self.host, *tap)
        self.net.close()

    def _beside(self, plan: Plan, info: Info) -> Beside | None:
        if not info.usbs and not any(port.type == "pty" for port in plan.serials):
            return None
        from qlaunch.run.beside import beside

        return beside(info, self.story.say)

    def _running(self, number: int, text: str) -> None:
        self.stage(number, text)
        if number == 9:
            self.story.say(f"{self.loaded.profile.name}: {text}")
            self._tell_of_sleep()
            self.on_running()
            # Needed at the end, when another version of this program may be installed.
            from qlaunch.run import verdict  # noqa: F401

    def _tell_of_sleep(self) -> None:
        if self.awake is not None:
            from qlaunch.run.awake import LOST, is_kept

            if not is_kept(self.awake):
                self.story.say(LOST)

    # -- stages 10 and 11 --------------------------------------------------------------------

    def _give_back(self, plan: Plan, *, stuck: bool) -> Outcome:
        with contextlib.suppress(OSError):
            self.stage(10, "giving back")
        from qlaunch.run.engine import Outcome

        outcome = Outcome()
        if self.engine is not None and self.engine.gave_up is not None:
            outcome = self.engine.gave_up  # what it has failed on is not touched again
        elif self.engine is not None and self.engine.pending:
            if any(isinstance(step, MakeBridge | MakeMacvtap) for step in self.engine.pending):
                self.net.start()  # its import overlaps the return of the devices
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(HostLock(self.base, self.story.say))
                except HostError as error:  # what is ours goes back all the same
                    self.story.say(str(error))
                with contextlib.suppress(HostError):
                    self.engine.catch_up(read_journal(Path(plan.runtime_dir, FILE_NAME)).records)
                outcome = self.engine.undo_all()
        left = bool(outcome.left) or stuck
        if self.journal is not None:
            with contextlib.suppress(OSError):
                self.journal.write(End(restored=not left))
        self._drop_claims(left)
        if self.awake is not None:
            os.close(self.awake)
            self.awake = None
        run_after(plan.profile.hooks.after, plan.account, self.loaded.trusted, self.story.say,
                  self.journal)
        if self.journal is not None:
            self.journal.close()
        if not left:
            with contextlib.suppress(OSError):
                Path(plan.runtime_dir, FILE_NAME).unlink()
        return outcome

    def _drop_claims(self, keep_files: bool) -> None:
        if self.claims:
            from qlaunch.run.claims import drop_claims

            drop_claims(self.claims, keep_files=keep_files)
            self.claims = []

    def _report(self, event: Event) -> None:
        if event.kind in ("applying", "undoing"):
            self.story.note(f"{event.kind}: {event.step}")
        elif event.kind == "failed":
            self.story.note(f"failed: {event.step}: {event.text}")

    def _on_wait(self, what: str, seconds: float) -> None:
        self.story.say(f"still waiting for the kernel: {what} ({seconds:.0f} s)")


def _locks(plan: Plan) -> bool:
    """Within an ordinary user's limit: a plan for which that is too low needs root."""
    return bool(plan.cards) or (plan.memory is not None and plan.memory.lock)


def _starting_cpus(plan: Plan) -> CpuSet | None:
    """Where QEMU starts: on the emulator's CPUs, so that every thread of its own stays there.

    While it touches all of a guest's memory it may use the vCPUs' CPUs as well.
    """
    pins = plan.pins
    if pins is None or pins.emulator is None:
        return None
    if plan.memory is None or not any(backend.prealloc for backend in plan.memory.backends):
        return pins.emulator
    return CpuSet(cpu for cpus in (pins.emulator, *pins.vcpus) for cpu in cpus)
