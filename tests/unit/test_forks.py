"""What is told of a fork: before it, and on both sides after it."""

import gc
import os

from agentref.forks import watch_forks


class Told:
    def __init__(self):
        self.said = []

    def before_fork(self):
        self.said.append("before")

    def after_fork_in_parent(self):
        self.said.append("parent")

    def after_fork_in_child(self):
        self.said.append("child")


def said_in_child(told):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, " ".join(told.said).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


def test_each_side_is_told_its_own():
    told = Told()
    watch_forks(told)
    assert said_in_child(told) == "before child"
    assert told.said == ["before", "parent"]
    assert said_in_child(told) == "before parent before child"


def test_what_nobody_holds_is_told_nothing():
    told = Told()
    said = told.said
    watch_forks(told)
    del told
    gc.collect()
    os.waitpid(os.fork() or os._exit(0), 0)
    assert said == []
