"""Errors as people read them."""

from __future__ import annotations

import socket
import ssl

import pytest

from email_router.model.errors import NeedsOperator, RouterError, said_by

MANY = (
    "Multiple exceptions: [Errno 111] Connect call failed ('::1', 143, 0, 0), [Errno {}] Connect call failed ('x', 143)"
)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 143)"), "Connection refused"),
        (OSError(MANY.format(111)), "Connection refused"),
        (OSError(MANY.format(113)), "Connection refused, No route to host"),
        (FileNotFoundError(2, "No such file or directory", "/x"), "No such file or directory"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)"), "wrong version number"),
        (ValueError("no SMTP reply"), "no SMTP reply"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_what_a_foreign_error_says(error: Exception, said: str) -> None:
    assert said_by(error).endswith(said)
    assert "Errno" not in said_by(error) and "_ssl" not in said_by(error)


def test_an_error_says_what_where_and_the_cure() -> None:
    assert str(RouterError("it failed")) == "it failed"
    error = NeedsOperator("it failed", where="host:25", said="535 no", cure="correct it")
    assert str(error) == 'it failed (host:25): "535 no" - to cure it: correct it'
