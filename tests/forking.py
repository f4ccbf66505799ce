"""Forked children of a test."""

import os
import warnings

from agentref.testing import _common


def fork(task):
    """`agentref.testing`'s own, without the warning that a test runner has threads: they are the point."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return _common.fork(task)


def statuses(children):
    """What each of them ended with, once all have."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
