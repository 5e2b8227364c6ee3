"""Who forwarded a message, and what proves it: only what our own server wrote about the outer message."""

from __future__ import annotations

from dataclasses import replace

import pytest

from email_router.mime.contents import BytesContent
from email_router.mime.parse import parse
from email_router.model.mailbox import AccessMethod, Approval
from email_router.model.message import ParsedEmail
from email_router.tracking.forwarder import Proof, forwarded_by, proved
from tests.unit.tracking.people import queue, user

SERVER = "mx.acme.test"
PASS = "dmarc=pass header.from=acme.test"


def outer(*fields: str, sender: str = "anna@acme.test") -> ParsedEmail:
    lines = [*fields, f"From: {sender}", "To: sink@acme.test", "Subject: FW", "", "see attached"]
    return parse(BytesContent("\r\n".join(lines).encode()))


def results(*words: str) -> str:
    return "; ".join(("Authentication-Results: " + SERVER, *words))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("dmarc=pass header.from=acme.test", "dmarc passed for acme.test at mx.acme.test"),
        ("dmarc=pass (p=reject dis=none) header.from=acme.test", "dmarc passed for acme.test at mx.acme.test"),
        ('dmarc=pass header.from="acme.test"', "dmarc passed for acme.test at mx.acme.test"),
        ('spf=fail smtp.mailfrom="("; dmarc=pass header.from=acme.test', "dmarc passed for acme.test at mx.acme.test"),
        ("dkim=pass header.d=acme.test header.s=k1", "dkim passed for acme.test at mx.acme.test"),
        ("dkim=pass header.i=@acme.test", "dkim passed for acme.test at mx.acme.test"),
        ("spf=pass smtp.mailfrom=anna@acme.test", "spf passed for acme.test at mx.acme.test"),
        ("SPF=PASS SMTP.MailFrom=Anna@ACME.test", "spf passed for acme.test at mx.acme.test"),
    ],
)
def test_a_verdict_of_our_server_proves(words: str, why: str) -> None:
    assert proved(outer(results(words)), SERVER, ()) == Proof(True, why)
    assert proved(outer(results("dkim=fail header.d=acme.test", words)), SERVER, ()) == Proof(True, why)


@pytest.mark.parametrize(
    "words",
    [
        "dmarc=fail header.from=acme.test",
        "dmarc=none header.from=acme.test",
        "dmarc=pass header.from=evil.test",
        "dmarc=pass header.from=notacme.test",
        "dmarc=pass header.from=acme.test.evil.test",
        "dmarc=pass",
        "dkim=pass header.d=evil.test",
        "dkim=pass header.i=anna@sub.acme.test",
        "spf=pass smtp.mailfrom=acme.test@evil.test",
        "spf=pass smtp.helo=acme.test",
        "iprev=pass policy.iprev=acme.test",
        "x=(dmarc=pass header.from=acme.test)",
        "dmarc=fail (dmarc=pass header.from=acme.test) header.from=acme.test",
        'spf=fail smtp.mailfrom="x; dmarc=pass header.from=acme.test "@evil.test',
        'spf=fail smtp.mailfrom="x\\"; dmarc=pass header.from=acme.test "@evil.test',
        r"spf=fail (helo=x\) ; dmarc=pass header.from=acme.test) smtp.mailfrom=evil.test",
        "dmarc=pass header.from=acme.test (",
        'dmarc=pass header.from=acme.test "',
        "none",
        "",
    ],
)
def test_every_other_verdict_proves_nothing(words: str) -> None:
    assert not proved(outer(results(words)), SERVER, ()).ok


@pytest.mark.parametrize(
    "fields",
    [
        [f"Authentication-Results: mx.evil.test; {PASS}"],
        [f"Authentication-Results: mx.acme.test.evil.test; {PASS}"],
        [f"Authentication-Results: {PASS}"],
        ["Authentication-Results: mx.acme.test; none", f"Authentication-Results: mx.acme.test; {PASS}"],
        ["Authentication-Results: mx.evil.test; none", f"Authentication-Results: mx.acme.test; {PASS}"],
        [f"ARC-Authentication-Results: i=1; mx.acme.test; {PASS}"],
        [f"X-Authentication-Results: mx.acme.test; {PASS}"],
        [],
    ],
)
def test_only_the_topmost_field_of_our_own_server_counts(fields: list[str]) -> None:
    assert not proved(outer(*fields), SERVER, ()).ok


def test_the_version_after_the_authserv_id_is_allowed() -> None:
    assert proved(outer(f"Authentication-Results: mx.acme.test 1; {PASS}"), SERVER, ()).ok


@pytest.mark.parametrize(
    ("received", "ok"),
    [
        ("from exchange.acme.test (exchange.acme.test [192.0.2.7]) by mx.acme.test", True),
        ("from exchange.acme.test ([192.0.2.7]) by mx.acme.test", True),
        ("from x ([IPv6:2001:db8::7]) by mx.acme.test", True),
        ("from x ([198.51.100.7]) by mx.acme.test", False),
        ("from x ([198.51.100.7] [192.0.2.7]) by mx.acme.test", False),
        ("from x by mx.acme.test ([192.0.2.7])", False),
        ("from x ([999.0.2.7]) by mx.acme.test", False),
        ("from 192.0.2.7 by mx.acme.test", False),
        ("by mx.acme.test with LMTP", False),
        ("from x ([::ffff:192.0.2.7]) by mx.acme.test", True),
        ("from x (may.be.forged [192.0.2.7] (may be forged)) by mx.acme.test", True),
        ("from [192.0.2.7] (unknown [198.51.100.7]) by mx.acme.test", False),
        ("from [192.0.2.7] by mx.acme.test", False),
        ("from [198.51.100.7] (helo=[192.0.2.7]) by mx.acme.test", False),
        ("from [198.51.100.7] (port=25 helo=x [192.0.2.7]) by mx.acme.test", False),
        ("from x([192.0.2.7]) (unknown [198.51.100.7]) by mx.acme.test", False),
    ],
)
def test_a_trusted_host_that_handed_the_mail_over_proves(received: str, ok: bool) -> None:
    hosts = ("192.0.2.0/24", "2001:db8::/32")
    found = proved(outer(f"Received: {received}; Mon, 23 Nov 2026 10:00:00 +0000"), "", hosts)
    assert found.ok is ok
    if ok:
        assert found.why.startswith("handed over by the trusted host ")


def test_a_received_field_below_the_topmost_may_be_written_by_anybody() -> None:
    trusted = "Received: from x ([192.0.2.7]) by mx.acme.test; Mon, 23 Nov 2026 10:00:00 +0000"
    foreign = "Received: from x ([198.51.100.7]) by mx.acme.test; Mon, 23 Nov 2026 10:00:01 +0000"
    assert not proved(outer(foreign, trusted), "", ("192.0.2.0/24",)).ok
    assert proved(outer(trusted, foreign), "", ("192.0.2.0/24",)).ok


def test_a_forward_must_name_exactly_one_sender() -> None:
    for sender in ("anna@acme.test, eve@evil.test", "undisclosed:;"):
        assert proved(outer(results(PASS), sender=sender), SERVER, ()) == Proof(
            False, "the forward does not name exactly one sender (From)"
        )


def test_what_was_wanted_is_told() -> None:
    assert proved(outer(), "", ()).why == (
        "nothing proves that anna@acme.test forwarded this: the forward mailbox names neither trusted_authserv_id nor "
        "trusted_forwarder_hosts"
    )
    assert proved(outer(), SERVER, ("192.0.2.0/24",)).why == (
        "nothing proves that anna@acme.test forwarded this: neither a verdict of mx.acme.test nor the hosts "
        "192.0.2.0/24 vouches for it"
    )


def test_hostile_fields_take_no_time() -> None:
    deep = "Authentication-Results: mx.acme.test; " + "(" * 50_000
    assert not proved(outer(deep), SERVER, ()).ok
    assert not proved(outer(*[results("dmarc=pass " + "x" * 1000)] * 500), SERVER, ()).ok


# -- the user or queue


def test_the_forwarder_is_a_user_or_queue_with_that_access_method() -> None:
    anna = user("anna", incoming=AccessMethod.FORWARD_MAILBOX)
    desk = queue("desk", incoming=AccessMethod.FORWARD_MAILBOX)
    assert forwarded_by(outer(), [desk, anna]) == anna
    assert forwarded_by(outer(sender="DESK@acme.test"), [desk, anna]) == desk


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"incoming": AccessMethod.ROUTER},
            "Anna <anna@acme.test> does not have the incoming access method Forward Mailbox",
        ),
        ({"enabled": False}, "Anna <anna@acme.test> is disabled"),
        ({"approval": Approval.PENDING}, "the address of Anna <anna@acme.test> is not approved"),
    ],
)
def test_who_may_not_forward(changes: dict[str, object], words: str) -> None:
    anna = replace(user("anna", incoming=AccessMethod.FORWARD_MAILBOX), **changes)  # type: ignore[arg-type]
    assert forwarded_by(outer(), [anna]) == words


def test_a_stranger_may_not_forward() -> None:
    assert (
        forwarded_by(outer(sender="eve@evil.test"), []) == "the forwarder eve@evil.test is no user or queue of this CRM"
    )
