"""What every command takes, and the router that it works on."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from email_router.app import Crm, Router, opened
from email_router.mime.addresses import normalise
from email_router.model.errors import NeedsOperator
from email_router.model.settings import Settings
from email_router.settings.bootstrap import Bootstrap, load
from email_router.settings.problems import suggestion

SERVE = Group("Set up and serve", sort_key=1)
LOOK = Group("Look and cure", sort_key=2)
CUSTOMERS = Group("The embedded CRM", sort_key=3)
KEEP = Group("Keep", sort_key=4)
EVERYWHERE = Group("Every command", sort_key=9)
"""Panels of the help."""


def _worth_saying(default: object) -> str | None:
    """Defaults that say something; an empty text, an empty list and a switch do not."""
    if isinstance(default, Enum):
        return default.name.lower().replace("_", "-")
    return str(default) if default not in (None, "", ()) and not isinstance(default, bool) else None


DEFAULTS = Parameter(negative=(), show_default=_worth_saying)
"""Of every parameter: switches have no opposite, and only a default that says something is shown."""

Deployment = Annotated[str, Parameter(name="--deployment", help="Whose CRM; only needed when several are published.")]


@Parameter(name="*", group=EVERYWHERE)
@dataclass(frozen=True, slots=True)
class Common:
    """Where the installation is, and how to answer."""

    config: Path | None = None
    """router.toml; else the one that EMAIL_ROUTER_CONFIG names, else /etc/email-router/router.toml if it is there."""
    data: str = ""
    """Data directory of the embedded database, instead of what router.toml says."""
    dsn: str = ""
    """PostgreSQL to use instead of the embedded database: postgresql://user@host/database."""
    json: Annotated[bool, Parameter(negative="")] = False
    """Answer in JSON, one object per line."""

    def bootstrap(self) -> Bootstrap:
        made = load(self.config, os.environ)
        if self.data:
            made = replace(made, data=self.data, dsn="")
        return replace(made, dsn=self.dsn) if self.dsn else made


HERE = Common()


@asynccontextmanager
async def router(common: Common) -> AsyncIterator[Router]:
    """The router's database, whether or not a router is running on it."""
    async with opened(common.bootstrap(), beside=True) as made:
        yield made


async def crm_of(made: Router, name: str) -> Crm:
    """The CRM of a deployment; the only one when none is named. Raises NeedsOperator."""
    settings = await made.settings()
    names = list(settings.deployments)
    if not name and len(names) == 1:
        name = names[0]
    if name not in settings.deployments:
        what = f"There is no deployment {name!r}" if name else "Several deployments are published" if names else ""
        if not names:
            what, cure = "No deployment is published yet", "email-router publish settings.toml"
        else:
            cure = f"--deployment: {suggestion(name, names)}"
        raise NeedsOperator(what, cure=cure)
    return await made.crm(settings.deployments[name])


def published(settings: Settings, address: str) -> str:
    """The published mailbox of that address, however it is spelt. Raises NeedsOperator."""
    wanted = (normalise(address) or address).casefold()
    for name in settings.mailboxes:
        if name.casefold() == wanted:
            return name
    raise NeedsOperator(f"There is no mailbox {address!r}", cure=suggestion(address, settings.mailboxes))
