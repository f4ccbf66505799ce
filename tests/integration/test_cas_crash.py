"""A process that is killed in the middle of a dump: what it acknowledged is whole, and nothing is torn."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from agentref.refs import ContentRef
from agentref.storage import FilesystemCAS

ROOT = Path(__file__).parents[2]
KILLS = 60

WRITER = """
import json, random, sys
from agentref.storage import FilesystemCAS

def value(seed):
    chance = random.Random(seed)
    if seed % 5 == 0:
        return {"seed": seed, "noise": chance.randbytes(9_000_000)}  # more than one batch
    if seed % 5 == 1:
        return [{"n": n, "text": chance.randbytes(chance.randrange(2000)).hex()} for n in range(300)]
    if seed % 5 == 2:
        return {"seed": seed, "file": chance.randbytes(200_000)}
    return [seed, "short", (seed,)]

if __name__ == "__main__":
    with FilesystemCAS(sys.argv[1]) as cas:
        print("ready", flush=True)
        seed = int(sys.argv[2])
        while True:
            ref = cas.dump(value(seed))
            print(json.dumps([seed, ref.to_dict()]), flush=True)
            seed += 1
"""


def _acknowledged(lines: list[str]) -> list[tuple[int, ContentRef]]:
    """What came through the pipe; the last line may be torn."""
    found = []
    for line in lines[:-1]:
        seed, ref = json.loads(line)
        found.append((seed, ContentRef.from_dict(ref)))
    return found


def _run_and_kill(script: Path, store: Path, seed: int, wait: float) -> list[tuple[int, ContentRef]]:
    process = subprocess.Popen(
        [sys.executable, str(script), str(store), str(seed)],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        lines = process.stdout.read().split("\n")
    assert process.wait() == -signal.SIGKILL
    return _acknowledged(lines)


def test_what_was_acknowledged_survives_sixty_kills(tmp_path: Path) -> None:
    script = tmp_path / "writer.py"
    script.write_text(WRITER, encoding="utf-8")
    value = {}
    exec(compile(WRITER, str(script), "exec"), value)
    chance = random.Random(2024)
    store = tmp_path / "store"
    acknowledged: list[ContentRef] = []
    for number in range(KILLS):
        kept = _run_and_kill(script, store, number * 7, chance.uniform(0, 0.12))
        acknowledged += [ref for _, ref in kept]
        with FilesystemCAS(store) as cas:
            for seed, ref in kept[-6:]:
                assert cas.load(ref) == value["value"](seed)
    assert len(acknowledged) > KILLS
    with FilesystemCAS(store) as cas:
        report = cas.verify()
        assert report.ok, report
        assert all(cas.exists(ref.hash) for ref in acknowledged)
    assert {path.name for path in store.iterdir()} == {"index.sqlite3", "marks", "packs"}
    assert len(list((store / "packs").iterdir())) < KILLS  # the dead ones' packs are filled on
