"""On which line of a TOML text a key stands. tomllib does not tell, and people must be shown the place."""

from __future__ import annotations

import re
import tomllib

Path = tuple[str, ...]

_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"[^"\\]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"\\]*"|'[^']*'))*)\s*=""")


def lines(text: str) -> dict[Path, int]:
    """Line numbers (from 1) by path, for tables and keys. Inside multi-line values lines may be guessed wrong."""
    found: dict[Path, int] = {}
    table: Path = ()
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("["):
            header = _path(line.strip().split("#")[0] if '"' not in line else line.strip())
            if header is not None:
                table = header
                for depth in range(1, len(table) + 1):
                    found.setdefault(table[:depth], number)
            continue
        match = _KEY.match(line)
        key = _path(f"{match.group(1)} = 0") if match is not None else None
        if key is not None:
            found.setdefault((*table, *key), number)
    return found


def _path(line: str) -> Path | None:
    """The names in a table header or key, by parsing that line alone."""
    try:
        node: object = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return None
    path: list[str] = []
    while isinstance(node, dict | list) and node:
        if isinstance(node, list):
            node = node[0]
            continue
        name, node = next(iter(node.items()))
        path.append(str(name))
    return tuple(path)
