"""`email-router`: the operator's commands, a thin face on what the router can do."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from email_router import __version__
from email_router.cli import activities, crm, mail, output, service
from email_router.cli.common import DEFAULTS
from email_router.observe import maillog

app = App(
    name="email-router",
    version=__version__,
    help="""Connects mail systems with a CRM: files the mail that concerns it, sends the mail that is written in it.

Begin with `email-router demo`, then README.md. Every command has `--help`; most have `--json`.

Exit codes: 0 done or all is well; 1 something needs attention; 2 wrong use; 3 somebody must act first, as the message
says; 75 try again later; 130 interrupted.""",
    default_parameter=DEFAULTS,
)
service.register(app)
mail.register(app)
app.command(crm.app)
activities.register(crm.app)


def run(arguments: Sequence[str]) -> int:
    """The exit code. Errors are said in words, never as a traceback."""
    maillog.configure(level="error")
    try:
        result = app(arguments, exit_on_error=False, result_action="return_value")
    except CycloptsError:
        return output.USAGE
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `email-router decisions | head`
        output.hang_up()
        return output.OK
    except Exception as error:
        return output.report(error)
    return result if isinstance(result, int) else output.OK


def main() -> None:
    output.forgiving()
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        output.hang_up()
    sys.exit(code)
