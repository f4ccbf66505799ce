"""Processes that stop where a test wants them to."""

import json
import subprocess
import sys

import pytest

from agentref.storage import FilesystemCAS, PostgresCAS

# A process of its own does one thing to a store, and stops before or after the verbs that it is told: each
# time it says so, and goes on when it is sent a line.
WORKER = """
import json, sys, time
from functools import wraps
from operator import attrgetter
from agentref.storage import FilesystemCAS, PostgresCAS

where, task, name, stops = json.loads(sys.argv[1])
cas = PostgresCAS(where) if "=" in where else FilesystemCAS(where)
VALUES = json.load(open(sys.argv[2]))


def say(text):
    print(text, flush=True)


def stop(point):
    if point in stops:
        stops.remove(point)
        say(point)
        sys.stdin.readline()


def watch(path):
    *way, verb = path.split(".")
    owner = attrgetter(".".join(way))(cas._store) if way else cas._store
    original = getattr(owner, verb)

    @wraps(original)
    def stopping(*args, **options):
        stop(f"before {path}")
        result = original(*args, **options)
        stop(f"after {path}")
        return result

    setattr(owner, verb, stopping)


if task in {"pin", "alias", "touch", "get"}:
    ref = cas.encode([VALUES[name]]).refs[0]
if task.startswith("again "):
    cas.dump(VALUES[name], ttl=0.02)
    stop("before again")
for path in {point.split()[1] for point in stops}:
    watch(path)
try:
    match task.removeprefix("again "):
        case "put":
            cas.dump(VALUES[name])
        case "pin":
            cas.pin("worker", [ref])
        case "alias":
            cas.set_alias("worker", ref)
        case "touch":
            cas.touch([ref])
        case "get":
            assert cas.load(ref) == VALUES[name]
        case "prune":
            cas.prune_expired(grace=0)
        case "two prunes":
            for _ in range(2):  # one that condemns, and one that removes
                cas.prune_expired(grace=0.01)
                time.sleep(0.02)
        case "check":
            # Of all that is here, nothing that is needed goes; and what was promised is here.
            for step in range(2):
                for promised in name:
                    ref = cas.encode([VALUES[promised]]).refs[0]
                    assert cas.load(ref) == VALUES[promised], promised
                cas.prune_expired(grace=0)
            assert cas.verify().ok
            say(json.dumps(list(cas.iter_hashes())))
except KeyError as error:
    say("raised " + type(error).__name__)
else:
    say("done")
"""


class Worker:
    """One that works on a store, and stops at `stops`: 'before remove', 'after touch'."""

    def __init__(self, where, values, task, name, stops):
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, json.dumps([where, task, name, stops]), str(values)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def says(self):
        """What it says next: where it stops, or how it ended."""
        return self.process.stdout.readline().strip()

    def go(self):
        """Let it go on; what it says next."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.says()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Place:
    """A store that several processes have open, and values by name."""

    def __init__(self, where, path):
        self.where = str(where)
        self.root = where
        self.path = path
        self.workers = []
        self.values = {}

    @property
    def is_postgres(self):
        return "=" in self.where

    def open(self):
        return PostgresCAS(self.where) if self.is_postgres else FilesystemCAS(self.where)

    def worker(self, task, name=None, *stops):
        """A process that does `task` to the value of that name; it has begun when it says something."""
        self.path.write_text(json.dumps(self.values))
        worker = Worker(self.where, self.path, task, name or next(iter(self.values)), list(stops))
        self.workers.append(worker)
        return worker

    def pruning(self, stop):
        """A process that has stopped there in a prune: without grace, unless it is to condemn something."""
        worker = self.worker("two prunes" if "condemn" in stop else "prune", None, stop)
        assert worker.says() == stop
        return worker

    def hashes_after_check(self, *promised):
        """What is here, by a new process that has pruned twice and found all that was promised."""
        self.path.write_text(json.dumps(self.values))
        worker = Worker(self.where, self.path, "check", list(promised), [])
        self.workers.append(worker)
        hashes = json.loads(worker.says())
        assert worker.says() == "done"
        return hashes

    def close(self):
        for worker in self.workers:
            worker.close()


@pytest.fixture(params=["filesystem", "postgres"])
def place(request, tmp_path):
    postgres = request.param == "postgres"
    where = request.getfixturevalue("databases").dsn() if postgres else tmp_path / "store"
    place = Place(where, tmp_path / "values.json")
    yield place
    place.close()
