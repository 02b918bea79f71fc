"""Rules between the keys of [cpu], [memory] and [[numa]]."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlaunch.errors import ProfileError
from qlaunch.profile.check import check_profile
from qlaunch.profile.keys import key_text
from qlaunch.profile.read import read_profile
from tests.fake.plans import profile

DISK = '[[disk]]\nfile = "/x"\nformat = "raw"\n'
FOUR = '[machine]\nmemory = "64M"\n[cpu]\ncores = 4\n'
CASES = [
    ("[cpu]\ndies = 16\ncores = 16\n", ["cpu: 256 vCPUs, and a guest can have 255"]),
    ('[cpu]\npin = "auto"\ncores = 3\n', []),
    ("[cpu]\nhyperv = false\nhyperv_spinlocks = 5000\n",
     ["cpu.hyperv_spinlocks: spinlocks are not among the enlightenments"]),
    ('[cpu]\nhyperv = ["relaxed"]\nhyperv_spinlocks = 5000\n',
     ["cpu.hyperv_spinlocks: spinlocks are not among the enlightenments"]),
    ('guest = "windows10"\n[cpu]\nhyperv_spinlocks = 5000\n', []),
    ("[cpu]\npriority = 5\n", ["cpu.priority: a priority is for real-time policies"]),
    ('[cpu]\npin = "auto"\nsched = "rr"\npriority = 5\n', []),
    ('[cpu]\npin = "auto"\nsched = "rr"\nnice = 5\n',
     ["cpu.nice: niceness does nothing to real-time threads"]),
    ('[cpu]\nsched = "fifo"\n',
     ["cpu.sched: real-time vCPUs that may run on every CPU can starve this host"]),
    ('[cpu]\nmodel = "Haswell"\ncache = "passthrough"\nmigratable = true\n',
     ["cpu.cache: the model Haswell has no such property",
      "cpu.migratable: the model Haswell has no such property"]),
    ('[cpu]\nmodel = "max"\ncache = "passthrough"\n', []),
    ('[cpu]\nmodel = "Haswell"\ncache = "none"\n', []),
    ('[memory]\nbackend = "file"\n', ["memory.backend: a file backend without a file"]),
    ('[memory]\nbackend = "memfd"\npath = "/x"\n', ["memory.path: memfd memory has no path"]),
    ('[memory]\nbackend = "anonymous"\nshare = true\n',
     ["memory.backend: anonymous memory cannot have share"]),
    ('[machine]\nhugepages = "2M"\n[memory]\nbackend = "anonymous"\n',
     ["memory.backend: anonymous memory cannot have hugepages"]),
    ('[memory]\npolicy = "bind"\n', ["memory.policy: a policy without nodes"]),
    ("[memory]\nhost_nodes = []\n", ["memory.host_nodes: an empty list of nodes"]),
    ('[memory]\nhost_nodes = "0-1"\npolicy = "preferred"\n',
     ["memory.host_nodes: one node can be preferred"]),
    ('[memory]\nhost_nodes = "0-1"\npolicy = "interleave"\n', []),
    (FOUR + '[[numa]]\ncpus = "0-3"\nmemory = "64M"\n', []),
    (FOUR + '[[numa]]\ncpus = "0-3"\nmemory = "32M"\n',
     ["numa: the nodes' memory is not the machine's"]),
    (FOUR + '[[numa]]\ncpus = "0-2"\nmemory = "64M"\n', ["numa: vCPU 3 is on no node"]),
    (FOUR + '[[numa]]\ncpus = "0-5"\nmemory = "64M"\n', ["numa: there is no vCPU 4-5"]),
    (FOUR + '[[numa]]\ncpus = "0-3"\nmemory = "32M"\n[[numa]]\ncpus = "3"\nmemory = "32M"\n',
     ["numa[1].cpus: vCPU 3 is on numa[0] as well"]),
]


@pytest.mark.parametrize(("text", "wanted"), CASES, ids=range(len(CASES)))
def test_rules(text: str, wanted: list[str]) -> None:
    found = check_profile(profile(text + DISK))
    assert [f"{key_text(f.path)}: {f.problem.message}" for f in found] == wanted
    assert all(f.problem.hint or f.problem.allowed or f.problem.found for f in found
               if f.problem.severity == "error" and "empty" not in f.problem.message)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ('cpu.pin="best"', '"auto"'),
        ("cpu.nice=20", "-20 to 19"),
        ('cpu.phys_bits="all"', '"host"'),
        ('cpu.hyperv=["relaxd"]', "relaxed"),
        ('memory.backend="ram"', '"anonymous", "file" or "memfd"'),
        ("numa=[{}]", "cpus"),
    ],
)
def test_wrong_values_are_told(override: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "vm.toml"
    key, _, value = override.partition("=")
    table, _, name = key.partition(".")
    path.write_text(
        DISK + (f"[{table}]\n{name} = {value}\n" if name else f"[[{table}]]\n"), encoding="utf-8"
    )
    with pytest.raises(ProfileError) as caught:
        read_profile(path, (), root_user=False)
    assert words in str(caught.value)
