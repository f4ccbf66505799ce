"""A migration that is killed, again and again: the next run finishes the work, and nothing is lost."""

import random
import signal
import subprocess
import sys
import time

import pytest

from agentref.storage import FilesystemCAS, PostgresCAS, migrate_cas

MIGRATE = """
import sys
from agentref.storage import FilesystemCAS, PostgresCAS, migrate_cas
source = FilesystemCAS(sys.argv[1])
target = PostgresCAS(sys.argv[2]) if "=" in sys.argv[2] else FilesystemCAS(sys.argv[2])
print("ready", flush=True)
migrate_cas(source, target)
print("done", flush=True)
"""


@pytest.mark.parametrize("kind", ["filesystem", "postgres"])
def test_the_next_run_finishes_what_a_killed_one_began(tmp_path, databases, kind):
    draw = random.Random(1)
    refs = []
    with FilesystemCAS(tmp_path / "source") as source:
        for turn in range(60):
            ref = source.dump([f"{turn} " + draw.randbytes(20_000).hex() for _ in range(12)], ttl=3000)
            source.pin(f"run-{turn}", [ref])
            source.set_alias(f"name-{turn}", ref)
            refs.append(ref)
    where = databases.dsn() if kind == "postgres" else str(tmp_path / "target")
    killed = 0
    for turn in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", MIGRATE, str(tmp_path / "source"), where],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "ready\n"
        time.sleep(draw.random() * 0.02 * (turn + 1))
        process.send_signal(signal.SIGKILL)
        killed += "done" not in process.communicate()[0]
    assert killed >= 3
    with (
        FilesystemCAS(tmp_path / "source") as source,
        PostgresCAS(where) if kind == "postgres" else FilesystemCAS(where) as target,
    ):
        # Whatever is named already is whole.
        for alias in target.iter_aliases():
            target.load(alias.ref)
        assert migrate_cas(source, target).ok
        assert migrate_cas(source, target).copied == 0
        assert target.verify().ok
        assert len(list(target.iter_pins())) == len(list(target.iter_aliases())) == len(refs)
        for turn, ref in enumerate(refs):
            assert target.load(ref) == source.load(ref)
            assert target.resolve_alias(f"name-{turn}") == ref
