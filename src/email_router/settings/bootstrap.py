"""`router.toml`: only what a process needs to start. Everything else is published.

    data = "/var/lib/email-router"     # the embedded database's directory, or
    dsn = "postgresql://router@db/email_router"
    key_file = "/etc/email-router/key" # the key of stored secrets; never beside the data
    listen = "127.0.0.1:8025"          # the status page; "" for none
    log = "console"                    # or "json"
    host = "mail1"                     # where this installation runs, if the host's name says nothing (containers)

Each may be given by the environment as EMAIL_ROUTER_DATA, EMAIL_ROUTER_DSN and so on, which wins.
"""

from __future__ import annotations

import os
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from email_router.model.settings import help_field
from email_router.settings.build import values
from email_router.settings.lines import lines
from email_router.settings.problems import Invalid, Problem


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """What is in router.toml, or in the environment."""

    data: str = help_field(
        "Directory of the embedded database, spool and daily dumps; by default /var/lib/email-router for root, else "
        "~/.local/share/email-router.",
        "",
    )
    dsn: str = help_field(
        "A PostgreSQL of your own instead of the embedded one, such as postgresql://router@db/email_router; the same "
        "on each router that shares it.",
        "",
    )
    key_file: str = help_field(
        "File with the key of stored passwords (email-router secret new-key). Keep it apart from the data.", ""
    )
    listen: str = help_field('Where the status page is served; "" for nowhere.', "127.0.0.1:8025")
    log: str = help_field("`console` lines for people, or `json` for programs.", "console")
    host: str = help_field(
        "Where this installation runs; by default the host's name. A container, whose own name changes each time it "
        "is made, is given its machine's: a database that wakes up elsewhere may be a copy, and holds outgoing mail.",
        "",
    )

    @property
    def host_name(self) -> str:
        """The place that the installation knows as its own."""
        return self.host or socket.gethostname()

    @property
    def data_directory(self) -> Path:
        """Where the embedded database, spool and dumps live."""
        if self.data:
            return Path(self.data).absolute()
        if os.geteuid() == 0:
            return Path("/var/lib/email-router")
        return Path.home() / ".local" / "share" / "email-router"


def load(path: Path | None, environment: Mapping[str, str]) -> Bootstrap:
    """From `path` (or EMAIL_ROUTER_CONFIG, or /etc/email-router/router.toml if it is there) and the environment.

    Raises Invalid.
    """
    named = path or (Path(environment["EMAIL_ROUTER_CONFIG"]) if environment.get("EMAIL_ROUTER_CONFIG") else None)
    standard = Path("/etc/email-router/router.toml")
    table: dict[str, object] = {}
    if named is not None or standard.is_file():
        table = _read(named or standard)
    for field in fields(Bootstrap):
        given = environment.get(f"EMAIL_ROUTER_{field.name.upper()}")
        if given is not None:
            table[field.name] = given
    made = Bootstrap(**table)  # type: ignore[arg-type]  # _read and the environment give texts only
    if made.log not in ("console", "json"):
        raise Invalid("router.toml", [Problem(0, "log", f"{made.log!r} is not possible", 'write "console" or "json"')])
    return made


def _read(path: Path) -> dict[str, object]:
    try:
        text = path.read_text()
        found = tomllib.loads(text)
    except OSError as error:
        what = f"the file cannot be read: {error.strerror}"
        raise Invalid(str(path), [Problem(0, "file", what, "correct the path or the rights")]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(
            str(path), [Problem(0, "syntax", str(error), "texts stand in quotes, one key in a line")]
        ) from error
    problems: list[Problem] = []
    places = lines(text)

    def complain(key: str, what: str, cure: str) -> None:
        problems.append(Problem(places.get((key,), 0), key, what, cure))

    made = values(Bootstrap, found, complain)
    if problems:
        raise Invalid(str(path), problems)
    return made
