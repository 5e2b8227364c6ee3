"""Whole mailboxes copied by programs that people use: mbsync and fetchmail."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

import pytest

from email_router.demo.mailsystem import MailSystem
from tests.fixtures import missing

pytestmark = pytest.mark.servers

SUPPORT = "support@contoso.example"
BOB = "bob@contoso.example"
MESSAGES = [
    b"From: carla@fabrikam.example\r\nMessage-ID: <%d@fabrikam.example>\r\nSubject: %d\r\n\r\n%b\r\n"
    % (n, n, b"\r\n.".join([b"line"] * n))
    for n in range(1, 61)
]
BIG = b"From: carla@fabrikam.example\r\nMessage-ID: <big@x>\r\nSubject: big\r\n\r\n" + b"0123456789\r\n" * 400_000


async def run(program: str, *arguments: str, package: str, okay: tuple[int, ...] = (0,), home: Path) -> str:
    if shutil.which(program) is None:
        missing(program, package)
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "FETCHMAILHOME": str(home)},
    )
    try:
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode in okay, output.decode()
    return output.decode()


def in_maildir(directory: Path) -> list[bytes]:
    """Messages with CRLF line ends and without mbsync's mark, sorted by content."""
    files = (file for part in ("new", "cur") for file in (directory / part).iterdir())
    return sorted(re.sub(rb"X-TUID: .*\n", b"", file.read_bytes()).replace(b"\n", b"\r\n") for file in files)


async def test_mbsync_copies_both_ways(mail: MailSystem, tmp_path: Path) -> None:
    for raw in (*MESSAGES, BIG):
        mail.deliver(SUPPORT, raw)
    copy = tmp_path / "copy"
    copy.mkdir()
    configuration = tmp_path / "mbsyncrc"
    configuration.write_text(
        f"""
IMAPStore far
Host localhost
Port {mail.imap_port}
User {SUPPORT}
Pass "support secret"
SSLType STARTTLS
CertificateFile {mail.ca_file}
SystemCertificates no

MaildirStore near
Path {copy}/
Inbox {copy}/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns INBOX Done
Create Both
Expunge Both
SyncState *
CopyArrivalDate yes
"""
    )
    arguments = ("-c", str(configuration), "-a")
    await run("mbsync", *arguments, package="isync", home=tmp_path)
    assert in_maildir(copy / "INBOX") == sorted([*MESSAGES, BIG])
    assert all(message.flags == frozenset() for message in mail.mailbox(SUPPORT).messages), "a copy leaves no trace"

    inbox = mail.mailbox(SUPPORT).inbox
    inbox.set_flags(inbox.messages[0], frozenset({"\\Seen"}))
    inbox.remove(inbox.messages[1:])
    new = copy / "INBOX" / "new" / "1700000000.1_1.near"
    new.write_bytes(b"Subject: written here\n\nup\n")
    await run("mbsync", *arguments, package="isync", home=tmp_path)
    (copied,) = (copy / "INBOX" / "cur").iterdir()
    assert copied.name.endswith(":2,S")
    first, second = mail.mailbox(SUPPORT).messages
    assert first.raw == MESSAGES[0]
    assert re.sub(rb"X-TUID: .*\r\n", b"", second.raw) == b"Subject: written here\r\n\r\nup\r\n"
    assert second.uid == 62


FETCHMAIL = """
set no bouncemail
poll localhost with proto {protocol} service {port} auth password
  user "{user}" password "bob-secret" is "me" here
  sslproto TLS1.2+ sslcertck sslcertfile {ca_file}
  {keep}
  mda "/bin/sh -c 'cat > {directory}/new/$$'"
"""


@pytest.mark.parametrize("protocol", ["IMAP", "POP3"])
@pytest.mark.parametrize("keep", ["keep", "no keep"])
async def test_fetchmail_fetches(mail: MailSystem, tmp_path: Path, protocol: str, keep: str) -> None:
    for raw in MESSAGES:
        mail.deliver(BOB, raw)
    for part in ("new", "cur"):
        (tmp_path / part).mkdir()
    configuration = tmp_path / "fetchmailrc"
    configuration.touch(mode=0o600)
    port = mail.imap_port if protocol == "IMAP" else mail.pop3_port
    configuration.write_text(
        FETCHMAIL.format(protocol=protocol, port=port, user=BOB, ca_file=mail.ca_file, directory=tmp_path, keep=keep)
    )
    await run("fetchmail", "-f", str(configuration), "--fetchall", package="fetchmail", home=tmp_path)
    fetched = [raw.partition(b"From: ")[2] for raw in in_maildir(tmp_path)]  # behind its own Received
    assert sorted(fetched) == sorted(raw.removeprefix(b"From: ") for raw in MESSAGES)
    left = mail.mailbox(BOB).messages
    assert len(left) == (60 if keep == "keep" else 0)
    assert all("\\Seen" in message.flags for message in left) is (protocol == "IMAP") or not left


async def test_fetchmail_is_told_that_the_password_is_wrong(mail: MailSystem, tmp_path: Path) -> None:
    configuration = tmp_path / "fetchmailrc"
    configuration.touch(mode=0o600)
    text = FETCHMAIL.format(
        protocol="POP3", port=mail.pop3_port, user=BOB, ca_file=mail.ca_file, directory=tmp_path, keep="keep"
    )
    configuration.write_text(text.replace("bob-secret", "wrong"))
    output = await run("fetchmail", "-f", str(configuration), package="fetchmail", okay=(3,), home=tmp_path)
    assert "Authorization failure on bob@contoso.example" in output
