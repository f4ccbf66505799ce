"""Killed at each step of copy_thread, prune and delete_for_runs: a pin too many, never one too few."""

import subprocess
import sys

import pytest

SCRIPT = """
import os, shutil, signal, sys, time
from langgraph.checkpoint.sqlite import SqliteSaver
sys.path.insert(0, {here!r})
import agentref.runtime
from agentref.adapters.langgraph import externalize
from agentref.storage import FilesystemCAS
from test_offered import config, history, logging, work, working
agentref.runtime.LEASE_SECONDS = 0.001
verb, arguments = {verb!r}, {arguments!r}
CHANGES = ("BEGIN", "INSERT", "DELETE", "UPDATE", "COMMIT")


def opened(inner, cas):
    return externalize(inner, backend=cas, inline_threshold_bytes=500)


def prepare():
    with FilesystemCAS("store") as cas, SqliteSaver.from_conn_string("checkpoints.db") as inner:
        saver = opened(inner, cas)
        for run in ("first", "second"):
            work(saver, "t", run, metadata={{"run_id": run}})
            logging(saver).invoke({{"log": [run * 200]}}, config("delta"))
        saver.copy_thread("t", "source")


class Steps:
    '''Counts what is done to the pins and to the database, and kills this process at the chosen one.'''

    def __init__(self, chosen):
        self.left = chosen

    def pass_by(self):
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1

    def around(self, work):
        def stepped(*arguments):
            self.pass_by()
            result = work(*arguments)
            self.pass_by()
            return result

        return stepped


def killed_at(chosen):
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    with FilesystemCAS("store") as cas, SqliteSaver.from_conn_string("checkpoints.db") as inner:
        saver = opened(inner, cas)
        steps = Steps(chosen)
        saver.runtime.keep = steps.around(saver.runtime.keep)
        saver.runtime.unpin = steps.around(saver.runtime.unpin)
        inner.conn.set_trace_callback(lambda sql: sql.startswith(CHANGES) and steps.pass_by())
        getattr(saver, verb)(*arguments)
    os._exit(0)


def look():
    with FilesystemCAS("store") as cas, SqliteSaver.from_conn_string("checkpoints.db") as inner:
        saver = opened(inner, cas)
        seen = {{}}
        for thread in ("t", "source", "copy"):
            seen[thread] = history(working(saver), thread)
        seen["delta"] = logging(saver).get_state(config("delta")).values
        return seen


def outlived():
    '''What is seen after all that is not needed was removed from the store, and what was seen before.'''
    before = look()
    with FilesystemCAS("store") as cas, SqliteSaver.from_conn_string("checkpoints.db") as inner:
        saver = opened(inner, cas)
        if verb == "copy_thread":
            saver.delete_thread("t")
            saver.delete_thread("source")
            before["t"] = before["source"] = []
        time.sleep(0.01)
        cas.prune_expired(grace=0)
        assert cas.verify().ok
    return look(), before


prepare()
os.makedirs("../prepared")
for name in os.listdir("."):
    (shutil.copytree if os.path.isdir(name) else shutil.copy)(name, f"../prepared/{{name}}")
points = 0
while True:
    for name in os.listdir("."):
        shutil.rmtree(name) if os.path.isdir(name) else os.remove(name)
    shutil.copytree("../prepared", ".", dirs_exist_ok=True)
    killed = killed_at(points)
    after, before = outlived()
    assert after == before, points
    if not killed:
        break
    points += 1
print(points)
with FilesystemCAS("store") as cas, SqliteSaver.from_conn_string("checkpoints.db") as inner:
    for thread in ("t", "source", "copy", "delta"):
        opened(inner, cas).delete_thread(thread)
    assert not list(cas.iter_pins())
"""


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("copy_thread", ["source", "copy"]),
        ("prune", [["t", "delta"]]),
        ("delete_for_runs", [["first"]]),
    ],
    ids=["copy_thread", "prune", "delete_for_runs"],
)
def test_whoever_is_killed_at_any_step_leaves_all_that_is_seen(verb, arguments, tmp_path):
    here = __file__.rsplit("/", 1)[0]
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(here=here, verb=verb, arguments=arguments)],
        cwd=tmp_path / "work",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10
