"""A plain page that says how the router is: no scripts, nothing from elsewhere, light and dark.

Whoever reaches it may read it. So it shows whose mail it was about only where nobody but this machine can reach it; and
a name that leads to this machine is not enough to be answered, or any web page could read it through its visitor.
"""

from __future__ import annotations

import contextlib
import html
import ipaddress
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from email_router.model.errors import RouterError
from email_router.net.connection import never_connect_to

REFRESH = 5
"""Seconds after which a browser asks again."""
CALM = frozenset({"ok", "new", "not read", "disabled"})
"""States of a mailbox that need nobody's attention."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What there is to see now."""

    revision: int
    hold: str
    mailboxes: Sequence[dict[str, Any]]
    outcomes: dict[str, int]
    outgoing: dict[str, int]
    decisions: Sequence[dict[str, Any]]
    undeliverable: Sequence[dict[str, Any]]
    undeliverable_open: int


Look = Callable[[], Awaitable[Snapshot]]
Alive = Callable[[], Awaitable[object]]
"""Raises when the router cannot work; cheap, because monitors ask all the time."""


def application(look: Look, alive: Alive, *, private: bool) -> Starlette:
    """`private`: only this machine reaches it, so that senders and subjects may be shown."""

    async def seen() -> Snapshot:
        snapshot = await look()
        return snapshot if private else replace(snapshot, decisions=(), undeliverable=())

    async def page(request: Request) -> Response:
        try:
            return HTMLResponse(render(await seen(), private=private))
        except RouterError as error:
            return HTMLResponse(_document(f'<p class="bad">{_text(error)}</p>'), 503)

    async def status(request: Request) -> Response:
        try:
            return Response(json.dumps(asdict(await seen()), default=str), media_type="application/json")
        except RouterError as error:
            return Response(json.dumps({"error": str(error)}), 503, media_type="application/json")

    async def health(request: Request) -> Response:
        try:
            await alive()
        except RouterError as error:
            return PlainTextResponse(f"{error}\n", 503)
        return PlainTextResponse("ok\n")

    routes = {"/": page, "/status.json": status, "/health": health}
    return Starlette(routes=[Route(path, _guarded(answer, private)) for path, answer in routes.items()])


Answer = Callable[[Request], Awaitable[Response]]


def _guarded(answer: Answer, private: bool) -> Answer:
    """What is private is asked for by an address or this machine's own name: a page elsewhere can make its own name
    lead here (DNS rebinding), but not that."""

    async def guarded(request: Request) -> Response:
        host = _host(request)
        if not private or host in _OWN_NAMES or _is_address(host):
            response = await answer(request)
        else:
            response = PlainTextResponse(f"Ask for this page by its address or as localhost, not as {host!r}.\n", 421)
        response.headers.update(_HEADERS)
        return response

    return guarded


def _host(request: Request) -> str:
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


_OWN_NAMES = frozenset({"localhost", socket.gethostname().casefold()})


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_private(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


@contextlib.asynccontextmanager
async def served(look: Look, alive: Alive, listen: str) -> AsyncIterator[str]:
    """Serve the page on `host:port`, or on the next free port behind it; yields its address. Raises OSError."""
    import asyncio

    host, _, port = listen.rpartition(":")
    place = host.strip("[]") or "127.0.0.1"
    bound = _bind(place, int(port))
    never_connect_to(bound.getsockname()[1])
    app = application(look, alive, private=is_private(place))
    server = _Server(uvicorn.Config(app, log_level="critical", lifespan="off", access_log=False, server_header=False))
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    try:
        yield f"http://{host or '127.0.0.1'}:{bound.getsockname()[1]}/"
    finally:
        server.should_exit = True
        await serving
        bound.close()


class _Server(uvicorn.Server):
    """Signals belong to the router, not to its page."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _bind(host: str, port: int) -> socket.socket:
    for candidate in range(port, port + 50):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, candidate))
            bound.listen(16)
        except OSError:
            bound.close()
            if candidate == port + 49:
                raise
        else:
            return bound
    raise OSError("no port is free")


# -- the page


def render(snapshot: Snapshot, *, private: bool = True) -> str:
    parts = [_heads(snapshot)]
    if snapshot.hold:
        parts.append(f'<p class="bad">Outgoing mail is held: {_text(snapshot.hold)}</p>')
    if not snapshot.revision:
        parts.append("<p>No settings are published yet: <code>email-router publish settings.toml</code></p>")
    parts.append(_section("Mailboxes and outgoing profiles", _MAILBOXES, snapshot.mailboxes))
    if snapshot.undeliverable:
        parts.append(_section("Undeliverable", _UNDELIVERABLE, snapshot.undeliverable))
    if private:
        parts.append(_section("Latest decisions", _DECISIONS, snapshot.decisions))
    else:
        parts.append("<p>Senders and subjects are shown only where nobody but this machine can reach this page.</p>")
    return _document("".join(parts))


def _heads(snapshot: Snapshot) -> str:
    facts = {
        "tracked in 24 h": snapshot.outcomes.get("filed", 0),
        "copies joined in 24 h": snapshot.outcomes.get("duplicate", 0),
        "not tracked in 24 h": snapshot.outcomes.get("not-tracked", 0),
        "undeliverable": snapshot.undeliverable_open,
        "sent in 24 h": snapshot.outgoing.get("sent", 0),
        "waiting to be sent": snapshot.outgoing.get("pending", 0),
        "failed in 24 h": snapshot.outgoing.get("failed", 0),
        "uncertain": snapshot.outgoing.get("uncertain", 0),
    }
    bad = {"undeliverable", "failed in 24 h", "uncertain"}
    items = "".join(
        f"<div{' class=bad' if name in bad and value else ''}><dt>{name}</dt><dd>{value}</dd></div>"
        for name, value in facts.items()
    )
    return f"<dl>{items}</dl>"


Column = tuple[str, Callable[[dict[str, Any]], str]]


def _section(title: str, columns: Sequence[Column], rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return f"<h2>{title}</h2><p>nothing yet</p>"
    head = "".join(f'<th scope="col">{name}</th>' for name, _ in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell(row)}</td>" for _, cell in columns) + "</tr>" for row in rows)
    return f"<h2>{title}</h2><div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _text(value: Any) -> str:
    return html.escape(str(value if value is not None else ""))


def _when(value: datetime | None) -> str:
    if value is None:
        return ""
    seconds = (datetime.now(UTC) - value).total_seconds()
    full = _text(f"{value:%Y-%m-%d %H:%M:%S %Z}")
    if seconds < 120:
        return f'<time title="{full}">{max(0, int(seconds))} s ago</time>'
    if seconds < 7200:
        return f'<time title="{full}">{int(seconds / 60)} min ago</time>'
    return f"<time>{full}</time>"


def _state(row: dict[str, Any]) -> str:
    mark = "good" if row["state"] == "ok" else "" if row["state"] in CALM else "bad"
    return f'<span class="{mark}">{_text(row["state"])}</span>'


def _why(row: dict[str, Any]) -> str:
    first, *rest = str(row["why"]).split("\n")
    if not rest:
        return _text(first)
    return f"<details><summary>{_text(first)}</summary>{''.join(f'<p>{_text(line)}</p>' for line in rest)}</details>"


_MAILBOXES: Sequence[Column] = (
    ("name", lambda r: _text(r["name"])),
    ("state", _state),
    ("last looked at", lambda r: _when(r["polled"])),
    ("open", lambda r: _text(r["waiting"])),
    ("older, left alone", lambda r: _text(r["older"])),
    ("lag", lambda r: f"{r['lag_seconds']:.1f} s" if r["lag_seconds"] is not None else ""),
    ("error", lambda r: _text(r["error"])),
)
_DECISIONS: Sequence[Column] = (
    ("when", lambda r: _when(r["created"])),
    ("mailbox", lambda r: _text(r["mailbox"])),
    ("from", lambda r: _text(r["sender"])),
    ("subject", lambda r: _text(r["subject"])),
    ("decision", lambda r: f"<b>{_text(r['outcome'])}</b> {_text(r['reason'])}"),
    ("why", _why),
)
_UNDELIVERABLE: Sequence[Column] = (
    ("when", lambda r: _when(r["created"])),
    ("mailbox", lambda r: _text(r["mailbox"])),
    ("from", lambda r: _text(r["sender"])),
    ("subject", lambda r: _text(r["subject"])),
    ("cause", lambda r: _text(r["cause"])),
    ("retry", lambda r: f"<code>email-router undeliverable retry {_text(r['id'])}</code>"),
)

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#d9dde3, #3a414b); --soft: light-dark(#5b6573, #9aa5b3);
  --good: light-dark(#1b7f3b, #5fd184); --bad: light-dark(#b3261e, #ff8a80); --card: light-dark(#fff, #1d2229);
  --page: light-dark(#f4f6f8, #14181d); }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 80rem; padding: 1.5rem;
  background: var(--page); }
h1 { font-size: 1.4rem; margin: 0 0 1rem; } h2 { font-size: 1.05rem; margin: 1.8rem 0 .5rem; }
dl { display: flex; flex-wrap: wrap; gap: .75rem; margin: 0; }
dl div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .6rem 1rem; }
dt { color: var(--soft); font-size: .85rem; } dd { font-size: 1.5rem; font-variant-numeric: tabular-nums; margin: 0; }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; } th { color: var(--soft); font-weight: 600; font-size: .85rem; }
th, td { padding: .45rem .75rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
tr:last-child td { border-bottom: 0; } time { white-space: nowrap; } details p { margin: .2rem 0; color: var(--soft); }
.good { color: var(--good); } .bad, .bad dd { color: var(--bad); } code { font-size: .85rem; overflow-wrap: anywhere; }
"""


def _document(body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Email Router</title>'
        f'<meta http-equiv="refresh" content="{REFRESH}"><meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style></head><body><h1>Email Router</h1><main>{body}</main></body></html>"
    )
