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
from qlaunch.errors import HostError, Problem, QlaunchError
from qlaunch.host.handler import Host
from qlaunch.host.net import NetChild
from qlaunch.host.tap import attach_tap
from qlaunch.plan.model import Plan
from qlaunch.plan.steps import LoadModule, MakeBridge, TakeDevice
from qlaunch.run.account import as_account, run_hooks
from qlaunch.run.cleanup import clean_up
from qlaunch.run.handover import Handover, opened
from qlaunch.run.info import LOCK, SUPERVISOR, info_of, note_start, write_info
from qlaunch.run.journal import FILE_NAME, End, Journal, Stage, create_journal, make_header
from qlaunch.run.locks import HostLock, make_directory, try_lock
from qlaunch.run.story import LOG, QEMU_LOG, Story
from qlaunch.run.terminal import Interrupts, ended_on_failure, terminal_kept
from qlaunch.values import CpuSet
from qlaunch.vm.process import QemuProcess, last_words, log_offset
from qlaunch.vm.spawn import start_qemu

if TYPE_CHECKING:
    from qlaunch.profile.read import Loaded
    from qlaunch.run.claims import Claim
    from qlaunch.run.engine import Engine, Event, Outcome
    from qlaunch.vm.watch import End as MachineEnd


class Session:
    """Carries one plan out. `run` may be called once."""

    def __init__(
        self,
        loaded: Loaded,
        make_plan: Callable[[], Plan],
        story: Story,
        *,
        base: str,
        terminal: bool = True,
        on_running: Callable[[], None] = lambda: None,
    ) -> None:
        self.loaded = loaded
        self.make_plan = make_plan
        self.story = story
        self.base = base
        self.terminal = terminal
        self.on_running = on_running
        self.interrupts = Interrupts(story.say)
        self.net = NetChild()
        self.host = Host(net=self.net, on_wait=self._on_wait)
        self.journal: Journal | None = None
        self.engine: Engine | None = None
        self.claims: list[Claim] = []

    # -- the order ---------------------------------------------------------------------------

    def run(self) -> int:
        """The whole. Returns the exit code. Raises QlaunchError for what kept the guest from
        running, with the host as it was (or NotRestoredError)."""
        if any(net.make_bridge for net in self.loaded.profile.net):
            self.net.start()
        with self.interrupts, contextlib.closing(self.net), contextlib.ExitStack() as stack:
            try:
                lock, plan = self._prepare(stack)
            except KeyboardInterrupt as error:
                raise HostError(
                    Problem("interrupted; nothing was changed", found=str(error))
                ) from None
            return self._carry_out(plan, lock)

    def _prepare(self, stack: contextlib.ExitStack) -> tuple[int, Plan]:
        """Stages 2 and 3, and the log."""
        self.stage(2, "claiming the name")
        lock = self._claim_name(stack)
        self.stage(3, "planning")
        plan = self.make_plan()
        self._open_logs(plan, stack)
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

        outcome = self._give_back(plan, stuck=end is not None and end.reason == "stuck")
        return tell_end(plan.name, end, failure, outcome, self.story)

    def _do(self, plan: Plan, lock: int) -> MachineEnd:
        """Stages 4 to 9."""
        self._claim_devices(plan)
        self.journal = create_journal(
            Path(plan.runtime_dir),
            make_header(self.host, plan.name, str(self.loaded.sources[0].path)),
        )
        run_hooks(plan.profile.hooks.before, plan.account, self.loaded.trusted, self.story.say)
        self.stage(5, f"{len(plan.steps)} host steps")
        self._apply(plan)
        return self._live(plan, lock)

    def stage(self, number: int, text: str) -> None:
        """Enter a stage: told in the journal once there is one, and in the log."""
        self.story.note(f"[{number}] {text}")
        if self.journal is not None:
            self.journal.write(Stage(stage=str(number), detail=text))

    # -- stages 2 to 5 -----------------------------------------------------------------------

    def _claim_name(self, stack: contextlib.ExitStack) -> int:
        name = self.loaded.profile.name
        runtime = f"{self.base}/{name}"
        make_directory(self.base, 0o711 if os.geteuid() == 0 else 0o700)
        make_directory(runtime)
        lock = try_lock(f"{runtime}/{LOCK}")
        if lock is None:
            raise HostError(
                Problem(f"{name} is running", where=runtime,
                        hint=f"qlaunch status '{name}'; qlaunch stop '{name}'")
            )
        stack.callback(os.close, lock)
        if Path(runtime, FILE_NAME).exists():
            from qlaunch.run.recover import recover_dead

            self.story.say(f"{name} left something behind; putting it back first")
            recover_dead(self.base, name, self.story.say, self.host)
        supervisor = try_lock(f"{runtime}/{SUPERVISOR}")
        if supervisor is None:
            raise HostError(Problem(f"{name} is being recovered by another qlaunch", runtime))
        stack.callback(os.close, supervisor)
        stack.callback(clean_up, self.base, name)
        return lock

    def _open_logs(self, plan: Plan, stack: contextlib.ExitStack) -> None:
        with as_account(plan):
            make_directory(plan.state_dir)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                self.story.to_file(os.open(f"{plan.state_dir}/{LOG}", flags, 0o600))
                self.qemu_log = os.open(f"{plan.state_dir}/{QEMU_LOG}", flags, 0o600)
            except OSError as error:
                raise HostError(
                    Problem(f"the log cannot be written: {error.strerror}", where=plan.state_dir)
                ) from None
        stack.callback(os.close, self.qemu_log)
        if plan.socket_dir != plan.runtime_dir and plan.account is not None:
            owner = (plan.account.uid, plan.account.gid)
            parent = os.path.dirname(plan.socket_dir)  # noqa: PTH120
            make_directory(os.path.dirname(parent), 0o711)  # noqa: PTH120
            make_directory(parent, 0o700, owner)
            make_directory(plan.socket_dir, 0o700, owner)

    def _claim_devices(self, plan: Plan) -> None:
        devices = [s.address for s in plan.steps if isinstance(s, TakeDevice)]
        if not devices:
            return
        from qlaunch.run.claims import Owner, take_claims
        from qlaunch.run.recover import recover_dead

        owner = Owner(plan.name, os.getpid(), time.time())
        with HostLock(self.base, self.story.say):
            self.claims = take_claims(self.base, owner, devices)
        for left_by in {c.left_by for c in self.claims if c.left_by}:
            self.story.say(f"{left_by} died with a device of this machine; putting it back first")
            recover_dead(self.base, left_by, self.story.say, self.host, only_if_dead=True)

    def _apply(self, plan: Plan) -> None:
        if not plan.steps or self.journal is None:
            return
        from qlaunch.host.handlers import HANDLERS
        from qlaunch.run.engine import Engine

        self.engine = Engine(self.host, self.journal, HANDLERS, self._report)
        if all(isinstance(step, MakeBridge | LoadModule) for step in plan.steps):
            self.engine.apply(plan.steps)
            return
        with HostLock(self.base, self.story.say):
            self.engine.apply(plan.steps)

    # -- stages 6 to 9 -----------------------------------------------------------------------

    def _live(self, plan: Plan, lock: int) -> MachineEnd:
        self.stage(6, "opening what QEMU inherits")
        with opened(plan, lock, self.claims) as handover:
            taps = dict(handover.taps)
            self.stage(7, "starting QEMU")
            info = info_of(plan, str(self.loaded.sources[0].path), time.time())
            write_info(info)
            offset = log_offset(self.qemu_log)
            self.interrupts.hold()
            process = self._start(plan, handover)
        with process, ended_on_failure(process), terminal_kept(self.terminal):
            # Now, while QEMU builds its machine: what takes time and is not needed before, and
            # what is needed at the end, when another version may have been installed.
            from qlaunch.run import verdict  # noqa: F401
            from qlaunch.run.live import Life, live

            note_start(plan)
            log = f"{plan.state_dir}/{QEMU_LOG}"
            life = Life(
                control=info.control, pins=plan.pins, memory=info.memory,
                ready_timeout=plan.ready_timeout, stop_timeout=info.stop_timeout,
                devices=len(plan.cards), last_words=lambda: last_words(log, offset),
                before_cont=lambda: self._attach(taps), stage=self._running,
                asked=lambda: self.interrupts.pending,
            )
            end = live(process, life, self.story.note)
            if end.reason == "died":
                self.story.say(
                    f"QEMU died ({end.exit}): {last_words(log, offset) or 'without a word'}"
                )
            return end

    def _start(self, plan: Plan, handover: Handover) -> QemuProcess:
        uses_terminal = self.terminal and any(s.type == "stdio" for s in plan.profile.serial)
        return start_qemu(
            render_argv(plan), fds=handover.fds, stderr_fd=self.qemu_log, account=plan.account,
            memlock=plan.memlock if os.geteuid() == 0 else None,
            cpus=_starting_cpus(plan), env=plan.profile.qemu.env,
            terminal=uses_terminal,
        )

    def _attach(self, taps: dict[str, str]) -> None:
        for ifname, bridge in taps.items():
            attach_tap(ifname, bridge)
        self.net.close()

    def _running(self, number: int, text: str) -> None:
        self.stage(number, text)
        if number == 9:
            self.story.say(f"{self.loaded.profile.name}: {text}")
            self.on_running()

    # -- stages 10 and 11 --------------------------------------------------------------------

    def _give_back(self, plan: Plan, *, stuck: bool) -> Outcome:
        with contextlib.suppress(OSError):
            self.stage(10, "giving back")
        from qlaunch.run.engine import Outcome

        outcome = Outcome()
        if self.engine is not None and self.engine.pending:
            if any(isinstance(step, MakeBridge) for step in self.engine.pending):
                self.net.start()  # its import overlaps the return of the devices
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(HostLock(self.base, self.story.say))
                except HostError as error:  # what is ours goes back all the same
                    self.story.say(str(error))
                outcome = self.engine.undo_all()
        if self.journal is not None:
            with contextlib.suppress(OSError):
                self.journal.write(End(restored=not outcome.left and not stuck))
            self.journal.close()
        self._drop_claims(bool(outcome.left) or stuck)
        if not outcome.left and not stuck:
            with contextlib.suppress(OSError):
                Path(plan.runtime_dir, FILE_NAME).unlink()
        if plan.profile.hooks.after:
            with contextlib.suppress(QlaunchError):
                run_hooks(
                    plan.profile.hooks.after, plan.account, self.loaded.trusted, self.story.say
                )
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


def _starting_cpus(plan: Plan) -> CpuSet | None:
    """Where QEMU starts: on the emulator's CPUs, so that every thread of its own stays there.

    While it touches all of a hugepage guest's memory it may use the vCPUs' CPUs as well.
    """
    pins = plan.pins
    if pins is None or pins.emulator is None:
        return None
    if plan.profile.machine.hugepages is False:
        return pins.emulator
    return CpuSet(cpu for cpus in (pins.emulator, *pins.vcpus) for cpu in cpus)
