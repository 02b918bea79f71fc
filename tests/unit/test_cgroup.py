"""A control group of the machine's own: where it can be, what it is limited to, and its end."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from qlaunch.errors import HostError
from qlaunch.facts.cgroup import read_cgroup
from qlaunch.facts.cgroup_model import CgroupLevel
from qlaunch.facts.model import HostFacts
from qlaunch.host.cgroup import MakeCgroupHandler
from qlaunch.plan.steps import MakeCgroup
from qlaunch.profile.check import check_profile
from qlaunch.run import oom
from qlaunch.run.account import group_of
from qlaunch.run.oom import explained, want_of_memory
from qlaunch.vm.process import Exit, QemuProcess
from qlaunch.vm.watch import End
from tests.fake.kernel import FakeKernel
from tests.fake.kernel_tree import Fault
from tests.fake.plans import USER, host, planned, profile, said
from tests.fake.trees import Tree

SCOPE = "/user.slice/user-0.slice/session-3.scope"
BOTH = ("memory", "pids")
LIMITS = '[limits]\nmemory = "2G"\npids = 200\n'


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[FakeKernel]:
    kernel = FakeKernel(tmp_path)
    yield kernel
    kernel.release()


# -- facts


def test_ours_and_those_above(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    top = "sys/fs/cgroup"
    tree.write("proc/self/cgroup", f"1:name=systemd:/x\n0::{SCOPE}")
    for path, on in (("", "cpu memory pids"), ("/user.slice", "memory pids"),
                     ("/user.slice/user-0.slice", "memory pids"), (SCOPE, "")):
        tree.write(f"{top}{path}/cgroup.controllers", "cpu memory pids")
        tree.write(f"{top}{path}/cgroup.subtree_control", on)
        tree.write(f"{top}{path}/cgroup.procs", "")
        if path:
            tree.write(f"{top}{path}/cgroup.type", "domain")
    ours, *_, top_level = levels = read_cgroup(tmp_path)
    assert [level.path for level in levels] == [
        SCOPE, "/user.slice/user-0.slice", "/user.slice", ""
    ]
    assert ours == CgroupLevel(path=SCOPE, has=BOTH, mine=True, root=True)
    assert (top_level.top, top_level.on) == (True, BOTH)
    tree.write(f"{top}{SCOPE}/cgroup.type", "threaded")
    assert not read_cgroup(tmp_path)[0].domain


@pytest.mark.parametrize("line", ["0::/../elsewhere", "0::/gone (deleted)", "4:memory:/x", ""])
def test_a_place_that_is_not_in_sight(tmp_path: Path, line: str) -> None:
    tree = Tree(tmp_path)
    tree.write("sys/fs/cgroup/cgroup.controllers", "memory")
    tree.write("proc/self/cgroup", line)
    assert read_cgroup(tmp_path) == ()


def test_the_old_hierarchy_is_none(tmp_path: Path) -> None:
    Tree(tmp_path).write("proc/self/cgroup", "4:memory:/\n0::/")
    assert read_cgroup(tmp_path) == ()


# -- plan


def levels(*above: CgroupLevel, own: str = SCOPE, mine: bool = False) -> HostFacts:
    """A host on which we are in `own`, as root or (`mine`) as who may write there."""
    ours = CgroupLevel(path=own, has=BOTH, mine=mine, root=True)
    return host(cgroup=(ours, *above))


SLICE = CgroupLevel(path="/user.slice/user-0.slice", has=BOTH, on=BOTH, root=True)
TOP = CgroupLevel(path="", has=BOTH, top=True, root=True)


def step_of(text: str, facts: HostFacts) -> MakeCgroup:
    plan = planned(text, facts)
    assert said(plan) == []
    step = plan.steps[-1]
    assert isinstance(step, MakeCgroup)
    assert plan.cgroup == step.path
    return step


def test_without_limits_it_lies_in_ours() -> None:
    step = step_of("", levels(SLICE, TOP))
    assert (step.path, step.memory, step.pids) == (f"{SCOPE}/qlaunch-vm", None, None)
    assert str(step) == f"make the cgroup {SCOPE}/qlaunch-vm"


def test_with_limits_it_lies_where_there_are_controllers() -> None:
    step = step_of(LIMITS, levels(SLICE, TOP))
    assert step == MakeCgroup(path="/user.slice/user-0.slice/qlaunch-vm", memory=2 << 30, pids=200,
                              why="limits.memory")
    assert "2048 MiB of memory and 200 processes" in str(step)


def test_at_the_top_they_are_turned_on() -> None:
    bare = replace(SLICE, on=("pids",))
    assert step_of(LIMITS, levels(bare, TOP)).enable == BOTH
    assert step_of(LIMITS, levels(bare, replace(TOP, on=("memory",)))).enable == ("pids",)
    assert step_of("[limits]\npids = 200\n", levels(bare, TOP)).path.startswith(SLICE.path)
    namespace = replace(TOP, top=False)
    plan = planned(LIMITS, levels(bare, namespace))
    assert said(plan) == ["limits.memory: this host's control groups do not limit memory"]


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (host(cgroup=()), "this host's control groups cannot limit a machine"),
        (levels(replace(SLICE, has=("pids",), on=("pids",))),
         "this host's control groups do not limit memory"),
        (levels(replace(SLICE, root=False)), "the control groups are read-only here"),
    ],
)
def test_a_limit_that_cannot_be_is_an_error_where_it_was_asked(
    facts: HostFacts, message: str
) -> None:
    assert said(planned(LIMITS, facts)) == [f"limits.memory: {message}"]
    assert said(planned("", facts)) == []


def test_nobody_looked() -> None:
    plan = planned(LIMITS)
    assert (plan.steps, plan.cgroup, said(plan)) == ((), "", [])
    assert planned("", host(cgroup=())).steps == ()


def test_an_ordinary_user() -> None:
    """Has one where the group is theirs; a limit elsewhere is left to root, a group is not."""
    theirs = replace(levels(replace(SLICE, mine=True), mine=True), invoker=USER)
    plan = planned(LIMITS, theirs)
    assert (plan.needs_root, plan.cgroup) == (False, f"{SLICE.path}/qlaunch-vm")
    assert not planned("", theirs).needs_root
    others = replace(levels(SLICE), invoker=USER)
    assert planned("", others).steps == ()
    plan = planned(LIMITS, others)
    assert (plan.needs_root, said(plan), plan.cgroup) == (True, [], f"{SLICE.path}/qlaunch-vm")


# -- rules


def test_limits_that_the_machine_itself_passes() -> None:
    def found(text: str) -> list[tuple[str, str]]:
        all_of = check_profile(profile(text))
        limits = [f.problem for f in all_of if f.path[:1] == ("limits",)]
        return [(problem.severity, problem.message) for problem in limits]

    machine = '[machine]\nmemory = "4G"\n'
    assert found(machine + LIMITS) == [("error", "the guest's own memory passes the limit")]
    assert found('[machine]\nmemory = "2000M"\n' + LIMITS) == [
        ("warning", "the limit leaves QEMU itself little memory")
    ]
    assert found('[machine]\nmemory = "4G"\nhugepages = true\n' + LIMITS) == []
    assert found('[limits]\npids = 20\n') == [
        ("warning", "QEMU ends when it cannot start a thread")
    ]


# -- the step


def put_in(kernel: FakeKernel, path: str, pid: int = 77) -> None:
    (kernel.root / f"sys/fs/cgroup{path}/cgroup.procs").write_text(f"{pid}\n")


def test_limits_are_read_back_and_controllers_go_off_with_the_last(kernel: FakeKernel) -> None:
    kernel.add_cgroups()
    top = kernel.root / "sys/fs/cgroup"
    before = {p: p.is_file() and p.read_text() for p in top.rglob("*")}
    handler, kernel_host = MakeCgroupHandler(), kernel.host()
    steps = [MakeCgroup(path=f"/qlaunch-{n}", memory=1 << 30, pids=99, enable=BOTH) for n in "ab"]
    for step in steps:
        captured = handler.capture(kernel_host, step)
        handler.apply(kernel_host, step, captured)
        assert (top / step.path[1:] / "memory.max").read_text() == f"{1 << 30}\n"
    assert handler.undo(kernel_host, steps[0], {}) is None
    assert (top / "cgroup.subtree_control").read_text().split() == ["memory", "pids"]
    assert (top / "qlaunch-b/pids.max").read_text() == "99\n"
    for _ in range(2):
        assert handler.undo(kernel_host, steps[1], {}) is None
    assert {p: p.is_file() and p.read_text() for p in top.rglob("*")} == before
    assert not (kernel.root / "run/qlaunch/.cgroup").exists()


def test_controllers_that_were_on_stay_on(kernel: FakeKernel) -> None:
    kernel.add_cgroups()
    control = kernel.root / "sys/fs/cgroup/cgroup.subtree_control"
    kernel.write(control, b"+pids")
    step, handler = MakeCgroup(path="/qlaunch-a", memory=1 << 30, enable=BOTH), MakeCgroupHandler()
    handler.apply(kernel.host(), step, {})
    handler.undo(kernel.host(), step, {})
    assert control.read_text().split() == ["pids"]


def test_whoever_is_left_in_it_is_killed(kernel: FakeKernel) -> None:
    kernel.add_cgroups("/a.slice")
    step, handler = MakeCgroup(path="/a.slice/qlaunch-vm"), MakeCgroupHandler()
    handler.apply(kernel.host(), step, {})
    put_in(kernel, step.path)
    assert handler.undo(kernel.host(), step, {}) == "1 left of QEMU's processes killed (pid 77)"
    assert not (kernel.root / "sys/fs/cgroup/a.slice/qlaunch-vm").exists()


def test_somebody_elses_is_refused_and_an_empty_one_made_anew(kernel: FakeKernel) -> None:
    kernel.add_cgroups()
    step, handler = MakeCgroup(path="/qlaunch-vm"), MakeCgroupHandler()
    handler.apply(kernel.host(), step, {})
    assert handler.capture(kernel.host(), step) == {}
    handler.apply(kernel.host(), step, {})
    put_in(kernel, step.path)
    with pytest.raises(HostError, match="somebody runs in the machine's control group"):
        handler.capture(kernel.host(), step)
    with pytest.raises(HostError, match="has gone"):
        handler.capture(kernel.host(), MakeCgroup(path="/away/qlaunch-vm"))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("sys/fs/cgroup/qlaunch-vm", errno.EROFS, "mkdir"), "outside of a container"),
        (Fault("sys/fs/cgroup/qlaunch-vm", errno.EAGAIN, "mkdir"), "max.descendants"),
        (Fault("*/cgroup.subtree_control", errno.EBUSY), "processes are in the group above"),
        (Fault("*/memory.max", errno.EINVAL), "memory.max cannot be set"),
    ],
)
def test_what_the_kernel_refuses(kernel: FakeKernel, fault: Fault, words: str) -> None:
    kernel.add_cgroups()
    kernel.faults.append(fault)
    step = MakeCgroup(path="/qlaunch-vm", memory=1 << 30, enable=("memory",))
    with pytest.raises(HostError, match=words):
        MakeCgroupHandler().apply(kernel.host(), step, {})
    kernel.faults.clear()
    MakeCgroupHandler().undo(kernel.host(), step, {})
    assert not (kernel.root / "sys/fs/cgroup/qlaunch-vm").exists()
    assert not (kernel.root / "run/qlaunch/.cgroup").exists()


def test_one_that_nobody_asked_for_is_done_without(kernel: FakeKernel) -> None:
    kernel.add_cgroups()
    kernel.faults.append(Fault("sys/fs/cgroup/qlaunch-vm", errno.EACCES, "mkdir"))
    step, handler = MakeCgroup(path="/qlaunch-vm"), MakeCgroupHandler()
    handler.apply(kernel.host(), step, handler.capture(kernel.host(), step))
    assert handler.undo(kernel.host(), step, {}) is None
    plan = planned("", levels(SLICE))
    assert (plan.cgroup, group_of(plan)) == (f"{SCOPE}/qlaunch-vm", "")
    plan = planned(LIMITS, levels(SLICE))
    assert group_of(plan) == plan.cgroup != ""


def test_one_that_stays(kernel: FakeKernel) -> None:
    kernel.add_cgroups()
    step, handler = MakeCgroup(path="/qlaunch-vm"), MakeCgroupHandler()
    handler.apply(kernel.host(), step, {})
    put_in(kernel, step.path)
    kernel.faults += [Fault("*/cgroup.kill", errno.EIO)]
    with pytest.raises(OSError, match="Input/output"):
        handler.undo(kernel.host(), step, {})
    (kernel.root / "sys/fs/cgroup/qlaunch-vm/cgroup.kill").unlink()  # older than Linux 5.14
    with pytest.raises(HostError, match=r"cannot be removed(.|\n)*pid 77 is in it"):
        handler.undo(kernel.host(), step, {})


# -- killed for want of memory

RECORD = (
    b"3,1020,25488731822,-;Memory cgroup out of memory: Killed process 6777 (qemu-system-x86) "
    b"total-vm:1624400kB, anon-rss:33732kB, UID:65534 pgtables:284kB oom_score_adj:0\n"
)


def test_the_kernels_log_names_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "kmsg"
    log.write_bytes(b"6,1,1,-;Linux version 6.1\n" + RECORD)
    real = os.open
    monkeypatch.setattr("qlaunch.run.oom.os.open", lambda path, *rest: real(
        log if path == "/dev/kmsg" else path, *rest))
    monkeypatch.setattr(oom, "_RECORDS", 4)
    assert want_of_memory(6777, "") == "killed for want of memory, as the kernel's log says"
    assert want_of_memory(777, "") == ""
    log.write_bytes(RECORD.replace(b"qemu-system-x86", b"firefox"))
    assert want_of_memory(6777, "") == ""


def test_the_group_counts_its_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oom, "MOUNT", str(tmp_path))
    group = Tree(tmp_path)
    group.write("vm/memory.events", "low 0\nmax 7\noom 1\noom_kill 1")
    group.write("vm/memory.max", str(1 << 30))
    told = "killed for want of memory in its own cgroup, limits.memory is 1G"
    assert want_of_memory(1, "/vm") == told
    with QemuProcess.of_child(os.getpid()) as process:
        end = explained(lambda: End("died", False, Exit(signal=9)), process, "/vm")
        assert end.detail == told
        other = End("died", False, Exit(code=1), detail="x")
        assert explained(lambda: other, process, "/vm").detail == ""
        guest = End("guest", True, Exit(0))
        assert explained(lambda: guest, process, "/vm") == guest
        group.write("run/killed", b"%d" % os.getpid())  # by stop --force
        asked = explained(lambda: End("died", False, Exit(signal=9)), process, "/vm",
                          str(tmp_path / "run"))
        assert (asked.reason, asked.rungs, asked.detail) == ("stopped", ("kill",), "")

    def fails() -> End:
        raise HostError("QEMU ended before it answered")

    pid = os.fork()
    if pid == 0:
        os._exit(0)
    with QemuProcess.of_child(pid) as process:
        process.wait()
        with pytest.raises(HostError) as caught:
            explained(fails, process, "/vm")
        assert [p.message for p in caught.value.problems] == [
            f"QEMU was {told}", "QEMU ended before it answered"
        ]
        group.write("vm/memory.events", "oom 0\noom_kill 0")
        with pytest.raises(HostError) as caught:
            explained(fails, process, "/vm")
        assert len(caught.value.problems) == 1
