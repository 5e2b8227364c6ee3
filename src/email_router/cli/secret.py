"""`email-router secret`: passwords that are stored, encrypted with the installation's key. None is ever shown."""

from __future__ import annotations

import getpass
import signal
import sys

from cyclopts import App

from email_router.cli.common import DEFAULTS, HERE, SERVE, Common, router
from email_router.cli.output import OK, counted, print_json, print_rows, say, warn
from email_router.model.errors import NeedsOperator
from email_router.store.secrets import decoded, key_id, new_key

app = App(
    name="secret",
    group=SERVE,
    default_parameter=DEFAULTS,
    help="Stored passwords, encrypted with the installation's key.",
)


@app.command(name="set")
async def store(name: str, /, *, common: Common = HERE) -> int:
    """Store a password under a name; the settings refer to it as `secret:NAME`. Read from the terminal or a pipe.

    It is encrypted with the installation's key (`email-router secret new-key`). A name that is there already gets the
    new password, which counts from the next login.

    Examples: `email-router secret set office` · `pass show mail/office | email-router secret set office`

    Parameters
    ----------
    name
        Any name, such as that of the profile.
    """
    value = _asked(f"Secret {name}")
    if not value:
        raise NeedsOperator("The secret is empty; nothing was stored", cure="enter it, or pipe it in")
    async with router(common) as made:
        await made.secrets.store(name, value)
    if common.json:
        print_json({"name": name})
    else:
        warn(f"Stored. Settings refer to it as secret:{name}")
    return OK


@app.command(name="list")
async def listing(*, common: Common = HERE) -> int:
    """The names of the stored passwords, and the key that each was sealed with. Never the passwords."""
    async with router(common) as made:
        rows = await made.secrets.listing()
    print_rows(rows, ("name", "key_id", "changed"), as_json=common.json, empty="No secret is stored.")
    return OK


@app.command
async def remove(name: str, /, *, common: Common = HERE) -> int:
    """Forget a stored password.

    Parameters
    ----------
    name
        From `email-router secret list`.
    """
    async with router(common) as made:
        await made.secrets.remove(name)
    if common.json:
        print_json({"name": name})
    else:
        warn(f"Removed {name}.")
    return OK


@app.command
async def rotate(*, common: Common = HERE) -> int:
    """Seal every stored password with a new key, which is read from the terminal or a pipe. All of them or none.

    Give the new key to each router afterwards (EMAIL_ROUTER_KEY or key_file) and start it again; until then its logins
    with stored passwords wait. Hashes in decisions on old untracked mail are of the old key: not found any more.

    Example: `email-router secret new-key > new; email-router secret rotate < new; mv new /etc/email-router/key`
    """
    key = decoded(_asked("New key"), "the new key")
    async with router(common) as made:
        number = await made.secrets.rotate(key)
    if common.json:
        print_json({"secrets": number, "key": key_id(key)})
    else:
        say(f"{counted(number, 'secret')} sealed with key {key_id(key)}. Give the new key to each router now.")
    return OK


@app.command(name="new-key")
def make_key() -> int:
    """Print a new encryption key, for EMAIL_ROUTER_KEY or key_file. Keep it apart from the data.

    Stored passwords can only be read with it, and it is in no backup. Every router of an installation has the same.

    Example: `(umask 077; email-router secret new-key > /etc/email-router/key)`
    """
    sys.stdout.write(new_key() + "\n")
    return OK


def _asked(what: str) -> str:
    """A line from the terminal, unseen, or from a pipe. Ctrl-C ends the command at once."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the event loop's waits for the loop
    try:
        return getpass.getpass(f"{what}: ")
    except EOFError:
        return ""
    finally:
        signal.signal(signal.SIGINT, before)
