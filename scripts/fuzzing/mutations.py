"""Damage to files: bytes, numbers in text, fields of headers, JSON and containers, cut short, made longer, replaced.

Convention: a mutation takes a random generator and bytes and gives bytes. What is packed (gzip, zip, a PNG's chunks)
is damaged inside and packed again, so that damage gets past the checksums.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

NUMBERS = (0, 1, -1, 2, 3, 7, 127, 255, 256, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 2**40, 2**63 - 1)
REALS = (0.0, -0.0, 1e-45, 1e-20, 1e20, 3e38, -1.0, float("nan"), float("inf"), float("-inf"))
WORDS = (
    *("0", "-1", "1", "32000", "99999999999", "9999999999999999999999", "3.5", "0x10"),
    *("nan", "inf", "-inf", "1e308", "1e-320", "", "None", "T", "LIST", "../.."),
    "/dev/zero",
    "é€𝄞",
    "a" * 5000,
)
LEAVES: tuple[Any, ...] = (None, [], {}, "", "x", True, 0, -1, 3, 2**40, 10**30, 1e308, [0], [[]], ["x"], {"name": 3})
HEADER = 512
"""Bytes at the start of a file where most of its header is; every second mutation happens there."""

Mutation = Callable[[random.Random, bytes], bytes]


def mutated(chance: random.Random, content: bytes) -> bytes:
    """One to four mutations, after one another; packed content is mutated inside as often as outside."""
    repack = None
    if chance.random() < 0.6:
        content, repack = unpacked(chance, content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        content = chance.choice(MUTATIONS)(chance, content)
    return repack(content) if repack else content


def _place(chance: random.Random, content: bytes) -> int:
    end = min(HEADER, len(content)) if chance.random() < 0.5 else len(content)
    return chance.randrange(max(1, end))


def flip_bits(chance: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 3, 20))):
        if changed:
            changed[_place(chance, content)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def set_field(chance: random.Random, content: bytes) -> bytes:
    """A number of 1 to 8 bytes, of either byte order, in the place of another."""
    order, kind = chance.choice("<>"), chance.choice("bhiqfd")
    value = chance.choice(REALS if kind in "fd" else NUMBERS)
    if kind in "bhiq":
        bits = 8 * struct.calcsize(kind)
        value = (int(value) + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
    field, place = struct.pack(order + kind, value), _place(chance, content)
    if chance.random() < 0.7:
        place -= place % len(field)
    return content[:place] + field + content[place + len(field) :]


def swap_field(chance: random.Random, content: bytes) -> bytes:
    """The bytes of one number turned round."""
    size, place = chance.choice((2, 4, 8)), _place(chance, content)
    place -= place % size
    return content[:place] + content[place : place + size][::-1] + content[place + size :]


def cut(chance: random.Random, content: bytes) -> bytes:
    return content[: _place(chance, content)]


def append(chance: random.Random, content: bytes) -> bytes:
    return content + chance.choice((bytes(1), bytes(5000), content, chance.randbytes(200), b"\n\n"))


def drop(chance: random.Random, content: bytes) -> bytes:
    place = _place(chance, content)
    return content[:place] + content[place + chance.choice((1, 2, 4, 16, 100)) :]


def repeat(chance: random.Random, content: bytes) -> bytes:
    place, size = _place(chance, content), chance.choice((1, 4, 16, 100))
    return content[:place] + content[place : place + size] * chance.choice((2, 3, 50)) + content[place + size :]


def fill(chance: random.Random, content: bytes) -> bytes:
    place, size = _place(chance, content), chance.choice((2, 8, 32))
    return content[:place] + chance.choice((b"\0", b"\xff", b" ", b"\x80")) * size + content[place + size :]


def change_number(chance: random.Random, content: bytes) -> bytes:
    """A number written as text, or a word, is another one."""
    found = list(re.finditer(rb"[-+.\d][-+.\deE]*" if chance.random() < 0.7 else rb"[A-Za-z_]+", content[:20000]))
    if not found:
        return flip_bits(chance, content)
    one = chance.choice(found)
    word = chance.choice(WORDS).encode() if chance.random() < 0.7 else chance.choice(found).group()
    return content[: one.start()] + word + content[one.end() :]


def change_lines(chance: random.Random, content: bytes) -> bytes:
    lines = content[:20000].splitlines(keepends=True)
    if len(lines) < 2:
        return flip_bits(chance, content)
    rest = content[20000:]
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    how = chance.randrange(4)
    if how == 0:
        del lines[one]
    elif how == 1:
        lines.insert(other, lines[one])
    elif how == 2:
        lines[one], lines[other] = lines[other], lines[one]
    else:
        lines[one] = chance.choice(
            (b"\xff\xfe\xe9\n", b"\n", b",,,,,,\n", b'"', b"\0\n", b"\r", b"[" * 3000, b"=\n:\n")
        )
    return b"".join(lines) + rest


def change_json(chance: random.Random, content: bytes) -> bytes:
    """Another leaf, a key less, a value nested in itself."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return flip_bits(chance, content)
    places: list[tuple[Any, Any]] = []
    waiting = [document]
    while waiting:
        one = waiting.pop()
        items = one.items() if isinstance(one, dict) else enumerate(one) if isinstance(one, list) else ()
        for key, value in items:
            places.append((one, key))
            waiting.append(value)
    if not places:
        return json.dumps(chance.choice(LEAVES)).encode()
    parent, key = chance.choice(places)
    if chance.random() < 0.2:
        del parent[key]
    elif chance.random() < 0.05:
        text = json.dumps(document)
        return text.replace(json.dumps(parent[key]), "[" * 100_000 + "]" * 100_000, 1).encode()
    else:
        parent[key] = chance.choice((*LEAVES, float("nan"), [parent[key]], {"a": parent[key]}))
    return json.dumps(document).encode()


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits,
    set_field,
    set_field,
    set_field,
    swap_field,
    cut,
    append,
    drop,
    repeat,
    fill,
    change_number,
    change_number,
    change_lines,
    change_json,
)


def unpacked(chance: random.Random, content: bytes) -> tuple[bytes, Callable[[bytes], bytes] | None]:
    """What a packed file holds (one of its members), and what packs it again; other content as it is."""
    if content[:2] == b"\x1f\x8b":
        return gzip.decompress(content), lambda inner: gzip.compress(inner, 1, mtime=0)
    if content[:4] == b"PK\3\4":
        return _member(chance, content)
    if content[:8] == b"\x89PNG\r\n\x1a\n":
        return _chunk(chance, content)
    return content, None


def _member(chance: random.Random, content: bytes) -> tuple[bytes, Callable[[bytes], bytes]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    heads = [name for name in members if name.endswith(".pkl")]
    chosen = chance.choice(heads if heads and chance.random() < 0.7 else list(members))
    method = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))

    def pack(inner: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            for name, value in members.items():
                archive.writestr(name, inner if name == chosen else value)
        return file.getvalue()

    return members[chosen], pack


def _chunk(chance: random.Random, content: bytes) -> tuple[bytes, Callable[[bytes], bytes]]:
    chunks, place = [], 8
    while place + 8 <= len(content):
        size, kind = struct.unpack(">I4s", content[place : place + 8])
        chunks.append((kind, content[place + 8 : place + 8 + size]))
        place += size + 12
    chosen = chance.randrange(len(chunks)) if chance.random() < 0.5 else 0

    def pack(inner: bytes) -> bytes:
        parts = [content[:8]]
        for number, (kind, body) in enumerate(chunks):
            body = inner if number == chosen else body
            parts.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
        return b"".join(parts)

    return chunks[chosen][1], pack


REPLACED: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "a folder": lambda path: path.mkdir(),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a pipe": lambda path: os.mkfifo(path),
    "zeros": lambda path: path.write_bytes(bytes(4096)),
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "text of another encoding": lambda path: path.write_bytes("größe,é\n".encode("latin-1") * 9),
    "not there": lambda path: None,
}
"""What may stand where a file is expected."""


def replace(path: Path, kind: str) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    REPLACED[kind](path)


def damage(chance: random.Random, path: Path) -> str:
    """Damages a file, or one in a folder; returns what was done, in words."""
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    beside = sorted(one for one in path.parent.iterdir() if one.is_file() and one != path)
    chosen = chance.choice(beside) if beside and chance.random() < 0.2 else chance.choice(files)
    if chance.random() < 0.03:
        kind = chance.choice(list(REPLACED))
        replace(chosen, kind)
        return f"{chosen.name} is {kind}"
    chosen.write_bytes(mutated(chance, chosen.read_bytes()))
    return f"{chosen.name} is mutated"
