"""`python -m email_router` is the command `email-router`."""

from email_router.cli import main

main()
