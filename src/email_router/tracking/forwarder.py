"""Is whoever forwarded a message into a forward mailbox really that user? Pure.

Believed are the verdict of our own mail server about the *outer* message (Authentication-Results, RFC 8601, by its
authserv-id) or the host that handed it over (the topmost Received field, which our server wrote). What stands below,
and everything inside the forwarded original, may be written by anybody.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from email_router.model.mailbox import AccessMethod, Approval, Receiver
from email_router.model.message import ParsedEmail

MOST_FIELDS = 20
LONGEST_FIELD = 8192

_PEER = re.compile(r"\s*from\s+[^\s()]+\s+\((?:[^\s()\[\]=]+\s+)?\[(?:IPv6:)?([0-9a-f:.]{3,45})\]", re.IGNORECASE)
"""`from HELO (NAME [ADDRESS]…`: only what stands in the parentheses is from our server (RFC 5321 section 4.4)."""
_NEVER_QUOTED = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-_@")
_RESULT = re.compile(r"^\s*(dmarc|dkim|spf)\s*=\s*(\w+)", re.IGNORECASE)
_PROPERTY = re.compile(r"\b(header\.from|header\.d|header\.i|smtp\.mailfrom)\s*=\s*\"?([^\s;\"]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Proof:
    """Whether the forwarder is proved, and the words for it."""

    ok: bool
    why: str


def proved(outer: ParsedEmail, authserv_id: str, hosts: Sequence[str]) -> Proof:
    """By the verdict of the server named `authserv_id`, or because one of `hosts` (CIDR) handed the mail over."""
    if len(outer.from_) != 1 or not outer.from_[0].address:
        return Proof(False, "the forward does not name exactly one sender (From)")
    domain = outer.from_[0].address.rpartition("@")[2].casefold()
    if authserv_id:
        words = _by_results(_fields(outer, "Authentication-Results"), authserv_id, domain)
        if words:
            return Proof(True, words)
    if hosts:
        words = _by_host(next(iter(_fields(outer, "Received")), ""), hosts)
        if words:
            return Proof(True, words)
    return Proof(False, _not_proved(outer, authserv_id, hosts))


def forwarded_by(outer: ParsedEmail, receivers: Iterable[Receiver]) -> Receiver | str:
    """The user or queue whose rule forwarded this, or in words why there is none."""
    address = outer.from_[0] if outer.from_ else None
    if address is None:
        return "the forward names no sender (From)"
    found = [r for r in receivers if r.address.casefold() == address.key]
    if not found:
        return f"the forwarder {address.address} is no user or queue of this CRM"
    receiver = found[0]
    if receiver.incoming is not AccessMethod.FORWARD_MAILBOX:
        return f"{receiver.name} <{receiver.address}> does not have the incoming access method Forward Mailbox"
    if not receiver.enabled:
        return f"{receiver.name} <{receiver.address}> is disabled"
    if receiver.approval is not Approval.APPROVED:
        return f"the address of {receiver.name} <{receiver.address}> is not approved"
    return receiver


def _fields(outer: ParsedEmail, name: str) -> tuple[str, ...]:
    return tuple(value[:LONGEST_FIELD] for value in outer.all_headers(name)[:MOST_FIELDS])


def _by_results(fields: Sequence[str], authserv_id: str, domain: str) -> str:
    """Only the topmost field of that name counts: our server puts its own above whatever came with the message."""
    if not fields:
        return ""
    server, _, rest = _plain(fields[0]).partition(";")
    if server.split()[:1] != [authserv_id.casefold()]:
        return ""
    for result in rest.split(";"):
        found = _RESULT.match(result)
        if found is None or found.group(2) != "pass":
            continue
        method = found.group(1)
        values = dict(_PROPERTY.findall(result))
        signer = values.get("header.d") or values.get("header.i", "").rpartition("@")[2]
        named = {
            "dmarc": values.get("header.from", ""),
            "dkim": signer,
            "spf": values.get("smtp.mailfrom", "").rpartition("@")[2],
        }[method]
        if named == domain:
            return f"{method} passed for {domain} at {authserv_id}"
    return ""


def _plain(field: str) -> str:
    """In lower case, without comments, and quoted text without what could be read as more results.

    The sender chooses what our server quotes, such as the local part of smtp.mailfrom. "" when an end is missing.
    """
    out: list[str] = []
    depth, quoted, escaped = 0, False, False
    for letter in field.casefold():
        if escaped:
            escaped = False
            letter = "?"
        elif letter == "\\" and (quoted or depth):
            escaped = True
            continue
        elif letter == '"' and not depth:
            quoted = not quoted
            continue
        elif letter in "()" and not quoted:
            depth = max(0, depth + (1 if letter == "(" else -1))
            letter = " "
        if quoted:
            out.append(letter if letter in _NEVER_QUOTED else "?")
        elif not depth:
            out.append(letter)
    return "" if quoted or depth else "".join(out)


def _by_host(received: str, hosts: Sequence[str]) -> str:
    found = _PEER.match(received)
    if found is None:
        return ""
    try:
        peer = ipaddress.ip_address(found.group(1))
    except ValueError:
        return ""
    peer = getattr(peer, "ipv4_mapped", None) or peer
    for host in hosts:
        network = ipaddress.ip_network(host, strict=False)
        if peer.version == network.version and peer in network:
            return f"handed over by the trusted host {peer}"
    return ""


def _not_proved(outer: ParsedEmail, authserv_id: str, hosts: Sequence[str]) -> str:
    who = outer.from_[0].address
    if not authserv_id and not hosts:
        return (
            f"nothing proves that {who} forwarded this: the forward mailbox names neither trusted_authserv_id nor "
            "trusted_forwarder_hosts"
        )
    wanted = [f"a verdict of {authserv_id}"] if authserv_id else []
    wanted += [f"the hosts {', '.join(hosts)}"] if hosts else []
    return f"nothing proves that {who} forwarded this: neither {' nor '.join(wanted)} vouches for it"
