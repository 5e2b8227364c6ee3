"""What a serving process sets up once; in a process of its own, since nothing of it can be taken back."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc, resource
from email_router.app.process import serve_without_end

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
serve_without_end()
print(resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard), gc.get_freeze_count() > 10_000, gc.get_threshold())
"""


def test_it_may_open_as_many_files_as_the_hard_limit_allows_and_collects_less_garbage() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True True (5000, 10, 10)"
