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

from email_router.model.errors import TO_CURE, RouterError
from email_router.net.connection import never_connect_to

REFRESH = 5
"""Seconds after which a browser asks again."""
TOLD = 10
"""So many troubles are told on the page: an outage concerns every mailbox."""
CALM = frozenset({"ok", "new", "not read", "disabled"})
"""States of a mailbox that need nobody's attention."""
PROFILES = ("incoming ", "outgoing ")
"""What the names of profiles begin with; mailboxes have addresses."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What there is to see now."""

    revision: int
    routers: int
    """Routers that gave a sign of life a moment ago."""
    hold: str
    mailboxes: Sequence[dict[str, Any]]
    """Profiles, too: their names begin with one of `PROFILES`."""
    outcomes: dict[str, int]
    outgoing: dict[str, int]
    decisions: Sequence[dict[str, Any]]
    undeliverable: Sequence[dict[str, Any]]
    undeliverable_open: int


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that needs attention, and what to do."""

    what: str
    cure: str


def troubles(now: Snapshot) -> list[Trouble]:
    """What needs attention, the worst first; nothing when all is well."""
    found: list[Trouble] = []
    if now.revision and not now.routers:
        found.append(Trouble("No router runs: nothing is received and nothing is sent", "start it: email-router run"))
    for row in now.mailboxes:
        if row["state"] not in CALM:
            what, _, cure = str(row["error"]).partition(TO_CURE)
            found.append(Trouble(f"{row['name']}: {row['state']}: {what}", cure or f"see: {_probe(row['name'])}"))
    if now.hold:
        cure = "settle what is uncertain, make sure that the original does not run, then: email-router outgoing release"
        found.append(Trouble(f"Outgoing mail is held: {now.hold}", cure))
    if now.undeliverable_open:
        many = "1 message is" if now.undeliverable_open == 1 else f"{now.undeliverable_open:,} messages are"
        found.append(Trouble(f"{many} undeliverable", "see why and what each needs: email-router undeliverable list"))
    uncertain = now.outgoing.get("uncertain", 0)
    if uncertain:
        many = "1 email is" if uncertain == 1 else f"{uncertain:,} emails are"
        cure = "email-router outgoing list; look whether it arrived, then: email-router outgoing settle ID sent"
        found.append(Trouble(f"{many} uncertain: handed over, and the answer was never seen", cure))
    return found


def _probe(name: str) -> str:
    return "email-router mailboxes" if name.startswith(PROFILES) else f"email-router test-access {name}"


def as_json(now: Snapshot) -> dict[str, Any]:
    """All of it for programs: `attention` is empty when all is well."""
    return {"attention": [asdict(trouble) for trouble in troubles(now)]} | asdict(now)


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
            return HTMLResponse(_document(_attention([Trouble(error.what, error.cure)])), 503)

    async def status(request: Request) -> Response:
        try:
            return Response(json.dumps(as_json(await seen()), default=str), media_type="application/json")
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


def render(now: Snapshot, *, private: bool = True) -> str:
    wrong = troubles(now)
    mailboxes = [row for row in now.mailboxes if not row["name"].startswith(PROFILES)]
    profiles = [row for row in now.mailboxes if row["name"].startswith(PROFILES)]
    parts = [_attention(wrong) if wrong or now.revision else _WAITING, _numbers(now)]
    if private and now.undeliverable:
        parts.append(_section("Undeliverable", _UNDELIVERABLE, now.undeliverable, ""))
    none = "None is published yet: <code>email-router publish settings.toml</code>"
    parts.append(_section("Mailboxes", _MAILBOXES, mailboxes, none))
    if profiles:
        parts.append(_section("Profiles", _PROFILES, profiles, ""))
    if private:
        parts.append(_section("Latest decisions", _DECISIONS, now.decisions, "No message was looked at yet."))
    else:
        parts.append("<p>Senders and subjects are shown only where nobody but this machine can reach this page.</p>")
    title = f"({len(wrong)}) Email Router" if wrong else "Email Router"
    return _document("".join(parts), title)


_WAITING = '<section class="banner"><h2>Waiting for settings</h2></section>'


def _attention(wrong: Sequence[Trouble]) -> str:
    if not wrong:
        return '<section class="banner good"><h2>All is well</h2></section>'
    items = "".join(f"<li>{_text(one.what)}<small>{_text(one.cure)}</small></li>" for one in wrong[:TOLD])
    if len(wrong) > TOLD:
        items += f"<li>and {len(wrong) - TOLD:,} more: <code>email-router status</code></li>"
    return f'<section class="banner bad"><h2>Needs attention</h2><ul>{items}</ul></section>'


def _numbers(now: Snapshot) -> str:
    received = {
        "filed": now.outcomes.get("filed", 0),
        "duplicates": now.outcomes.get("duplicate", 0),
        "not tracked": now.outcomes.get("not-tracked", 0),
        "undeliverable now": now.undeliverable_open,
    }
    sent = {
        "sent": now.outgoing.get("sent", 0),
        "failed": now.outgoing.get("failed", 0),
        "pending now": now.outgoing.get("pending", 0),
        "uncertain now": now.outgoing.get("uncertain", 0),
    }
    return f'<div class="numbers">{_cards("Received in 24 hours", received)}{_cards("Sent in 24 hours", sent)}</div>'


_ALARMING = frozenset({"undeliverable now", "uncertain now"})


def _cards(title: str, numbers: dict[str, int]) -> str:
    items = "".join(
        f"<div{' class=bad' if name in _ALARMING and value else ''}><dt>{name}</dt><dd>{value:,}</dd></div>"
        for name, value in numbers.items()
    )
    return f"<section><h2>{title}</h2><dl>{items}</dl></section>"


Column = tuple[str, Callable[[dict[str, Any]], str]]


def _section(title: str, columns: Sequence[Column], rows: Sequence[dict[str, Any]], empty: str) -> str:
    if not rows:
        return f"<h2>{title}</h2><p>{empty}</p>"
    head = "".join(f'<th scope="col">{name}</th>' for name, _ in columns)
    body = "".join(f"<tr>{''.join(_cell(name, cell(row)) for name, cell in columns)}</tr>" for row in rows)
    return f"<h2>{title}</h2><div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _cell(name: str, shown: str) -> str:
    return f'<td data-name="{name}">{shown}</td>'


def _text(value: Any) -> str:
    return html.escape(str(value if value is not None else ""))


def _when(value: datetime | None) -> str:
    """How long ago, up to two hours; then the time, in the time zone of the machine."""
    if value is None:
        return "never"
    seconds = (datetime.now(UTC) - value).total_seconds()
    local = value.astimezone()
    words = f"{max(0, int(seconds))} s ago" if seconds < 120 else f"{int(seconds / 60)} min ago"
    if seconds >= 7200:
        words = f"{local:%Y-%m-%d %H:%M}"
    return f'<time title="{_text(f"{local:%Y-%m-%d %H:%M:%S %Z}")}">{words}</time>'


def _state(row: dict[str, Any]) -> str:
    mark = "good" if row["state"] == "ok" else "" if row["state"] in CALM else "bad"
    return f'<b class="{mark}">{_text(row["state"])}</b>'


def _number(value: int) -> str:
    return f"{value:,}" if value else "–"


def _message(row: dict[str, Any]) -> str:
    way = f"{_text(row['sender']) or '(no sender)'} → {_text(row['mailbox'])}"
    return f"<b>{_text(row['subject']) or '(no subject)'}</b><small>{way}</small>"


def _decision(row: dict[str, Any]) -> str:
    mark = {"filed": "good", "duplicate": "good", "undeliverable": "bad"}.get(row["outcome"], "")
    return f'<b class="whole {mark}">{_text(row["outcome"])}</b><small class=whole>{_text(row["reason"])}</small>'


def _why(row: dict[str, Any]) -> str:
    first, *rest = str(row["why"]).split("\n")
    return _text(first) + "".join(f"<small>{_text(line)}</small>" for line in rest)


_NAME: Column = ("name", lambda r: _text(r["name"]))
_LOOKED: Column = ("last looked at", lambda r: _when(r["polled"]))
_MAILBOXES: Sequence[Column] = (
    _NAME,
    ("state", _state),
    _LOOKED,
    ("waiting", lambda r: _number(r["waiting"])),
    ("delivery to outcome", lambda r: f"{r['lag_seconds']:.1f} s" if r["lag_seconds"] is not None else "–"),
    ("older, left alone", lambda r: _number(r["older"])),
)
_PROFILES: Sequence[Column] = (_NAME, ("state", _state), _LOOKED)
_DECISIONS: Sequence[Column] = (
    ("when", lambda r: _when(r["created"])),
    ("message", _message),
    ("decision", _decision),
    ("why", _why),
)
_UNDELIVERABLE: Sequence[Column] = (
    ("when", lambda r: _when(r["created"])),
    ("message", _message),
    ("cause", lambda r: f"{_text(r['cause'])}<small>{_text(r['cure'])}</small>"),
    ("when that is cured", lambda r: f"<code>email-router undeliverable retry {_text(r['id'])}</code>"),
)

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

_STYLE = """
:root { color-scheme: light dark; --line: #d9dde3; --soft: #5b6573; --good: #1b7f3b; --bad: #b3261e; --card: #fff;
  --page: #f4f6f8; --well: #e7f4eb; --ill: #fbeae9; }
@media (prefers-color-scheme: dark) { :root { --line: #3a414b; --soft: #9aa5b3; --good: #5fd184; --bad: #ff8a80;
  --card: #1d2229; --page: #14181d; --well: #17291d; --ill: #34201f; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 76rem; padding: 1.5rem;
  background: var(--page); }
header, .numbers { display: flex; flex-wrap: wrap; gap: 0 1.5rem; align-items: baseline; }
header p { color: var(--soft); font-size: .85rem; margin: 0 0 0 auto; } h1 { font-size: 1.4rem; margin: 0 0 .8rem; }
h2 { font-size: 1rem; margin: 1.6rem 0 .5rem; }
small { display: block; color: var(--soft); font-size: .85rem; } b { font-weight: 600; }
.banner { border: 1px solid; border-radius: 8px; padding: .7rem 1rem; background: var(--card); }
.banner h2 { margin: 0; } .banner.good { background: var(--well); } .banner.bad { background: var(--ill); }
.banner ul { margin: .4rem 0 0; padding-left: 1.2rem; } .banner li { overflow-wrap: anywhere; margin-top: .3rem; }
dl { display: flex; flex-wrap: wrap; margin: 0; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; }
dl div { padding: .6rem 1rem; } dl div + div { border-left: 1px solid var(--line); }
dt { color: var(--soft); font-size: .85rem; } dd { font-size: 1.5rem; font-variant-numeric: tabular-nums; margin: 0; }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; } th { color: var(--soft); font-weight: 600; font-size: .85rem; }
th, td { padding: .45rem .75rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }
th { white-space: nowrap; } tr:last-child td { border-bottom: 0; } time { white-space: nowrap; }
.whole { white-space: nowrap; }
@media (max-width: 48rem) { thead { display: none; } tr { display: block; padding: .4rem 0;
  border-bottom: 1px solid var(--line); } td { display: block; border: 0; padding: .1rem .75rem; }
  td::before { content: attr(data-name) ": "; color: var(--soft); font-size: .85rem; } header p { margin: 0 0 .8rem; } }
.good { color: var(--good); } .bad, .bad dt, .bad dd { color: var(--bad); } code { font-size: .85rem; }
"""


def _document(body: str, title: str = "Email Router") -> str:
    now = f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z}"
    about = f"{_text(socket.gethostname())} · {now} · refreshed every {REFRESH} s"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta http-equiv="refresh" content="{REFRESH}"><meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style></head><body><header><h1>Email Router</h1><p>{about}</p></header>"
        f"<main>{body}</main></body></html>"
    )
