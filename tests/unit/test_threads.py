"""What waits for others in threads must not hold up what has work to do."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from email_router.incoming.forwarded import PARSE_ASIDE, parsed
from email_router.mime.contents import BytesContent


async def test_a_name_server_that_does_not_answer_holds_up_no_parsing() -> None:
    answer = threading.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(2))
    waiting = [asyncio.ensure_future(asyncio.to_thread(answer.wait, 60)) for _ in range(5)]
    try:
        async with asyncio.timeout(20):
            email = await parsed(BytesContent(b"Subject: large\n\n" + b"x" * PARSE_ASIDE))
        assert email.subject == "large"
    finally:
        answer.set()
        await asyncio.gather(*waiting)
