"""Unsigned metadata: an XMP packet that says how the picture was made, in the words of IPTC, with the claim.

Readers of XMP (photo software, search engines) understand `DigitalSourceType`; the claim beside it is for
`icgan prove`. Anybody can remove or change both: see signed.py for a manifest that shows changes.
"""

from __future__ import annotations

import html
import re
import struct

from icgan_runtime.errors import RequestError
from icgan_runtime.marks.claim import MAX_BYTES, Claim, read_claim

TRAINED_ALGORITHMIC_MEDIA = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
NAMESPACE = "urn:icgan:origin:1"
MAX_XMP_BYTES = 4 * MAX_BYTES

_CLAIM = re.compile(r'\sicgan:claim="([^"]*)"')
_PNG, _PNG_XMP = b"\x89PNG\r\n\x1a\n", b"XML:com.adobe.xmp\0\0\0\0\0"
_JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"


def xmp_packet(claim: Claim | None) -> bytes:
    """The XMP packet of a generated image."""
    claimed = (
        "" if claim is None else f' xmlns:icgan="{NAMESPACE}" icgan:claim="{html.escape(claim.to_text())}"'
    )
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        f'Iptc4xmpExt:DigitalSourceType="{TRAINED_ALGORITHMIC_MEDIA}"{claimed}/></rdf:RDF></x:xmpmeta>'
        '<?xpacket end="r"?>'
    ).encode()


def read_unsigned(data: bytes) -> tuple[bool, Claim | None]:
    """Whether a file's XMP names a trained algorithm as its source, and the claim in it.

    Raises RequestError for a claim that cannot be read.
    """
    packet = find_xmp(data)
    if packet is None:
        return False, None
    text = packet.decode("utf-8", "replace")
    found = _CLAIM.search(text)
    return TRAINED_ALGORITHMIC_MEDIA in text, None if found is None else read_claim(html.unescape(found[1]))


def find_xmp(data: bytes) -> bytes | None:
    """The XMP packet of a PNG, JPEG or WEBP file; RequestError for one that is too long to be sensible."""
    packet = next((part for part in _packets(data) if part is not None), None)
    if packet is not None and len(packet) > MAX_XMP_BYTES:
        raise RequestError("metadata", f"XMP of {len(packet)} bytes, at most {MAX_XMP_BYTES} are read")
    return packet


def _packets(data: bytes) -> list[bytes | None]:
    if data.startswith(_PNG):
        chunks = (body for kind, body in png_chunks(data) if kind == b"iTXt" and body.startswith(_PNG_XMP))
        return [bytes(body[len(_PNG_XMP) :]) for body in chunks]
    if data.startswith(b"\xff\xd8"):
        bodies = (body for mark, body in jpeg_segments(data) if mark == 0xE1)
        return [bytes(body[len(_JPEG_XMP) :]) for body in bodies if body.startswith(_JPEG_XMP)]
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return [bytes(body) for kind, body in riff_chunks(data) if kind == b"XMP "]
    return []


MAX_PARTS = 10_000  # chunks or segments that are looked at


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and body of the chunks of a PNG, as far as they are whole."""
    found: list[tuple[bytes, bytes]] = []
    place = len(_PNG)
    while place + 8 <= len(data) and len(found) < MAX_PARTS:
        (size,) = struct.unpack_from(">I", data, place)
        if place + 12 + size > len(data):
            break
        found.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    return found


def jpeg_segments(data: bytes) -> list[tuple[int, bytes]]:
    """Marker and body of the segments before a JPEG's first scan, as far as they are whole."""
    found: list[tuple[int, bytes]] = []
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF and len(found) < MAX_PARTS:
        mark, (size,) = data[place + 1], struct.unpack_from(">H", data, place + 2)
        if mark == 0xDA or size < 2 or place + 2 + size > len(data):
            break
        found.append((mark, data[place + 4 : place + 2 + size]))
        place += 2 + size
    return found


def riff_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and body of the chunks of a WEBP, as far as they are whole."""
    found: list[tuple[bytes, bytes]] = []
    place = 12
    while place + 8 <= len(data) and len(found) < MAX_PARTS:
        kind, (size,) = data[place : place + 4], struct.unpack_from("<I", data, place + 4)
        if place + 8 + size > len(data):
            break
        found.append((kind, data[place + 8 : place + 8 + size]))
        place += 8 + size + size % 2
    return found
