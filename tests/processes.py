"""Start processes in milliseconds from a server process that has imported PyTorch and has no threads.

A fork of a process with threads keeps the locks that one of them holds at that moment, for ever. A store of PyTorch has
a thread that asks glibc's resolver for names; a fork of its process then waits for the resolver without end.
"""

import multiprocessing
from multiprocessing.context import ForkServerContext

PRELOADED = ["tests.engine.worker"]


def forkserver() -> ForkServerContext:
    """Return the context whose processes are forks of that server; what they do is a function of a module."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context
