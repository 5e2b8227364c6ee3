"""Every failpoint of the router, at which passing it is killed there, and what becomes of the email under way.

`tests/unit/test_failpoints.py` compares this with the points that the sources name.
"""

from __future__ import annotations

import os

KILLS = int(os.environ.get("EMAIL_ROUTER_KILLS", "20"))
"""Random kills under traffic, of all tests together."""

RECEIVING = {
    "before-note": 2,
    "after-note": 2,
    "before-file": 2,
    "inside-file": 2,
    "inside-copy": 3,
    "after-file": 2,
    "before-join": 1,
    "after-join": 1,
    "before-conclude": 2,
    "after-conclude": 2,
    "before-acknowledge": 2,
    "after-acknowledge": 2,
    "before-close": 2,
    "after-close": 2,
}
"""The passing at which the router is killed; where a second one is certain, what came before is whole."""

SENDING = {
    "before-claim": (1, 0, False),
    "after-claim": (1, 0, False),
    "after-ledger": (1, 0, False),
    "after-stamp": (1, 0, False),
    "before-mark": (2, 0, False),
    "after-mark": (2, 1, False),
    "after-dot": (2, 1, True),
    "before-record": (2, 1, True),
    "after-record": (2, 0, False),
    "before-settle": (1, 0, False),
    "after-settle": (1, 0, False),
    "after-settled": (1, 0, False),
}
"""The passing, how many emails are uncertain then, and whether those arrive."""

PUSHED = [f"{when}-{seam}" for seam in ("note", "file", "conclude") for when in ("before", "after")] + ["before-reply"]
"""At the second passing of each the router is killed while Postfix hands mail over."""

BOUNCED = ["before-bounced", "after-bounced"]
"""At the first passing of each the router is killed while a bounce changes what was sent."""
