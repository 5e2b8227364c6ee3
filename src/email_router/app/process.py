"""What a process does once before it serves without end."""

from __future__ import annotations

import gc
import resource

ALLOCATIONS = 5000
"""New objects after which young garbage is looked for: a batch of mail makes tens of thousands that all live on."""


def serve_without_end() -> None:
    """Leave what the program itself consists of out of every later garbage collection, and take what files we may have.

    A mailbox that is watched holds a connection: a thousand of them do not fit into the usual soft limit of 1,024
    files. The hard limit stays what the administrator made it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS, *gc.get_threshold()[1:])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
