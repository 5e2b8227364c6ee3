"""Frozen values that travel between the stages. Standard library only, no I/O.

One module per noun: `mailbox`, `message`, `evidence`, `verdict`, `filing`, `outgoing`, `receipt`, `settings`, `errors`.
"""
