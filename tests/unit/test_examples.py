"""What documents and packaging show is true: settings are valid, commands exist with their options, links lead on.

A TOML block that begins with `# router.toml` or `# settings.toml` is a whole file; other TOML blocks are added to
packaging/settings.toml. Every call of email-router is parsed, in shell blocks and between backticks; ID stands for any
id.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from cyclopts import CycloptsError

from email_router.app import KINDS
from email_router.cli import app
from email_router.settings.bootstrap import load
from email_router.settings.read import read

ROOT = Path(__file__).resolve().parents[2]
PACKAGING = ROOT / "packaging"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
ANY_ID = "01a21106-0fcd-75a6-8136-cde43c48c7e0"

CALL = re.compile(r"(?<![\w/.:-])(?<!-u )email-router [^|;)<>&#…\n]*")
INLINE = re.compile(r"`(email-router [^`…]+)`")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")


def blocks(*languages: str) -> list[tuple[str, str]]:
    """Page and text of each fenced block in these languages."""
    return [
        (str(page.relative_to(ROOT)), text)
        for page in PAGES
        for language, text in BLOCK.findall(page.read_text())
        if language in languages
    ]


def commands() -> list[tuple[str, str]]:
    """Page and words of each call of email-router, from its name to where the shell goes on with something else."""
    shell = [(page, text.replace("\\\n", " ")) for page, text in blocks("sh", "console") if page != "docs/cli.md"]
    prose = [(str(page.relative_to(ROOT)), BLOCK.sub("", page.read_text())) for page in PAGES]
    found = [(page, call) for page, text in shell for call in CALL.findall(text)]
    said = [(page, call) for page, text in prose for inline in INLINE.findall(text) for call in CALL.findall(inline)]
    found += [(page, call) for page, call in said if not is_a_name(call)]
    return list(dict.fromkeys((page, " ".join(call.split())) for page, call in found))


def is_a_name(call: str) -> bool:
    """Whether prose only names a command: `email-router outgoing settle`. Raises AssertionError when there is none."""
    path, _, rest = app.parse_commands(call.split()[1:])
    assert path, f"there is no command: {call}"
    return not rest


def test_the_examples_are_found() -> None:
    assert len(blocks("toml")) >= 2
    assert len(commands()) >= 20
    assert {name for name, _ in commands()} >= {"README.md"}


@pytest.mark.parametrize(("page", "text"), blocks("toml"))
def test_settings_in_documents_are_valid(page: str, text: str, tmp_path: Path) -> None:
    if text.startswith("# router.toml"):
        file = tmp_path / "router.toml"
        file.write_text(text)
        assert load(file, {}) != load(None, {"EMAIL_ROUTER_LOG": "json"})
        return
    whole = text if text.startswith("# settings.toml") else (PACKAGING / "settings.toml").read_text() + "\n" + text
    settings, _ = read(whole, KINDS, file=page)
    assert settings.mailboxes


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_in_documents_exist(page: str, line: str) -> None:
    words = [ANY_ID if word == "ID" else word for word in shlex.split(line)[1:]]
    if words == ["--version"] or words[-1:] == ["--help"]:
        return
    try:
        app.parse_args(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        pytest.fail(f"{page}: {line}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{page.name} leads to {link}"
        if anchor and target.suffix == ".md":
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, link


def test_the_packaged_examples_are_valid_and_warn_of_nothing(tmp_path: Path) -> None:
    settings, warnings = read((PACKAGING / "settings.toml").read_text(), KINDS)
    assert [str(w) for w in warnings] == []
    assert {p.kind for p in settings.incoming.values()} >= {"imap", "pop3"}
    assert {m.kind.value for m in settings.mailboxes.values()} == {"queue", "user", "forward"}
    started = load(PACKAGING / "router.toml", {})
    assert (started.data, started.key_file) == ("/var/lib/email-router", "/etc/email-router/key")


def test_what_is_commented_out_is_valid_too(tmp_path: Path) -> None:
    file = tmp_path / "router.toml"
    text = (PACKAGING / "router.toml").read_text()
    file.write_text(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE))
    assert load(file, {}).dsn == "postgresql://router@db.example.com/email_router"


def test_the_unit_waits_longer_than_the_drain_takes() -> None:
    from email_router.work.engine import DRAIN

    unit = (PACKAGING / "email-router.service").read_text()
    found = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert found is not None
    assert int(found.group(1)) >= 2 * DRAIN
    assert re.search(r"^KillMode=mixed$", unit, re.MULTILINE)  # the database must not be told before the router


def test_the_unit_is_one(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    unit = (PACKAGING / "email-router.service").read_text()
    installed = tmp_path / "email-router.service"  # with a program that is there
    installed.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={shutil.which('true')}", unit, flags=re.MULTILINE))
    done = subprocess.run([program, "verify", str(installed)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_and_the_container_call_the_program_as_it_is() -> None:
    unit = (PACKAGING / "email-router.service").read_text()
    start = re.search(r"^ExecStart=\S*/email-router (.*)$", unit, re.MULTILINE)
    assert start is not None
    app.parse_args(shlex.split(start.group(1)), exit_on_error=False, print_error=False)
    container = (PACKAGING / "Containerfile").read_text()
    variables = set(re.findall(r"EMAIL_ROUTER_(\w+)=", container))
    assert {name.lower() for name in variables} <= set(load(None, {}).__dataclass_fields__)


def test_the_lock_names_no_address_and_has_a_hash_for_everything() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"https?:|://|--(?:extra-)?index|--find-links", lock)
    pinned = re.findall(r"^[a-z0-9][^\n]*?(?:\\\n[^\n]*)*$", lock, re.MULTILINE)
    assert len(pinned) > 40
    assert [p.partition("\n")[0] for p in pinned if "==" not in p or "--hash=sha256:" not in p] == []


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    reasons = (ROOT / "docs" / "dependencies.md").read_text()
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    names = [re.split(r"[\[<>=]", requirement)[0] for requirement in wanted]
    assert [name for name in names if f"`{name}`" not in reasons] == []
