"""Forked children of a test."""

import os
import warnings


def fork(task):
    """Run it in a child, which ends with 1 if it raises. The child's process id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads are the point here
        child = os.fork()
    if child:
        return child
    status = 1
    try:
        task()
        status = 0
    finally:
        os._exit(status)


def statuses(children):
    """What each of them ended with, once all have."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
