"""A small picture and a small document, drawn here so that no binary file has to be shipped."""

from __future__ import annotations

import struct
import zlib

_WIDTH, _HEIGHT = 120, 80
_PAPER, _WALL, _OVEN, _DOOR = (250, 248, 240), (70, 70, 80), (214, 106, 46), (255, 214, 120)


def drawing() -> bytes:
    """A PNG of 120 × 80 points: the plan of a room with three ovens in it."""
    rows = b"".join(b"\0" + b"".join(bytes(_colour(x, y)) for x in range(_WIDTH)) for y in range(_HEIGHT))
    header = struct.pack(">IIBBBBB", _WIDTH, _HEIGHT, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _colour(x: int, y: int) -> tuple[int, int, int]:
    if x < 4 or x >= _WIDTH - 4 or y < 4 or (y >= _HEIGHT - 4 and not 50 < x < 70):
        return _WALL
    if 12 <= y < 36 and 12 <= x < 108 and (x - 12) % 34 < 28:
        return _DOOR if 18 <= y < 30 and 6 <= (x - 12) % 34 < 22 else _OVEN
    return _PAPER


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def order_form() -> bytes:
    """A PDF of one page."""
    lines = ("Order 4711", "Northwind Bakeries, branch Cologne", "", "2 x CX-500 deck oven", "1 x set of door seals")
    text = "BT /F1 14 Tf 72 770 Td 22 TL " + " ".join(f"({line}) Tj T*" for line in lines) + " ET"
    objects = (
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R "
        "/Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(text)} >>\nstream\n{text}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )
    document = "%PDF-1.4\n"
    places = []
    for number, content in enumerate(objects, 1):
        places.append(len(document))
        document += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    return (
        f"{document}xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
        f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(document)}\n%%EOF\n"
    ).encode("ascii")
