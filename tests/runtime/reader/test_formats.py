import builtins

import numpy as np
import pytest

from icgan_runtime import images
from icgan_runtime.errors import DecodeError
from icgan_runtime.reader.formats import sniff
from tests.picture_files import KINDS, encoded, needs_heif, photo


def box(brand: bytes, *compatible: bytes) -> bytes:
    content = b"ftyp" + brand + bytes(4) + b"".join(compatible)
    return (4 + len(content)).to_bytes(4, "big") + content


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "WEBP"),
        (b"GIF87a", "GIF"),
        (b"GIF89a", "GIF"),
        (b"BM", "BMP"),
        (b"II*\0", "TIFF"),  # either order of bytes
        (b"MM\0*", "TIFF"),
        (b"P6\n1 1\n255\nabc", "PPM"),
        (b"P5 1 1 255 a", "PPM"),
        (box(b"avif", b"mif1"), "AVIF"),
        (box(b"mif1", b"avif"), "AVIF"),
        (box(b"heic", b"mif1"), "HEIC"),
        (box(b"mif1", b"mif1", b"heic"), "HEIC"),
        (box(b"msf1", b"hevc"), "HEIC"),
        (box(b"isom", b"mp42"), None),
        (b"RIFF\x24\0\0\0WAVEfmt ", None),
        (b"FORM\x24\0\0\0WEBP", None),
        (b"GIF88a", None),
        (b"\xff\xd8", None),
        (b"II*", None),
        (b"P3 1 1 255 1 2 3", None),
        (b"P6x", None),
    ],
)
def test_a_format_is_known_by_its_first_bytes(head, kind):
    assert sniff(head) == kind


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_is_read(kind):
    picture = photo()
    read = images.decode(encoded(picture, kind), 40).astype(int)
    assert np.abs(read - images.load(picture, 40)).mean() < 12, "not the same picture"


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "not a JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM, AVIF or HEIC picture"),
        (b"hello", "not a JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM, AVIF or HEIC picture"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
            "a pointer of Git LFS in the picture's place: fetch the files with git lfs pull",
        ),
        (
            b"\n<!DOCTYPE html><title>Log in</title>",
            "a web page instead of a picture, as a site answers for a link that has expired",
        ),
        (b"%PDF-1.4", "a PDF file, which is not read; save it as PNG or JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "an EPS file, which is not read; save it as PNG or JPEG"),
        (b"\xff\x0a\xfa\x7f", "a JPEG XL file, which is not read; save it as PNG or JPEG"),
        (b"8BPS\0\1", "a Photoshop file, which is not read; save it as PNG or JPEG"),
    ],
)
def test_what_is_not_read_is_called_by_its_name(data, sentence):
    with pytest.raises(DecodeError) as caught:
        images.decode(data, 8)
    assert caught.value.problem == sentence


@pytest.mark.parametrize("kind", ["TGA", "ICO", "PCX", "JPEG2000", "SGI", "ICNS", "DDS", "EPS"])
def test_formats_off_the_list_are_refused_even_if_pillow_knows_them(kind):
    with pytest.raises(DecodeError, match=r"not a JPEG|which is not read"):
        images.decode(encoded(photo(), kind), 8)


@pytest.mark.parametrize("tag", [{254: 1}, {50706: b"\1\4\0\0"}])
def test_a_raw_photo_is_no_picture_of_its_thumbnail(tag):
    """DNG, NEF and ARW are TIFFs that begin with one."""
    assert images.decode(encoded(photo(), "TIFF", tiffinfo={254: 0}), 8).shape == (8, 8, 3)
    with pytest.raises(DecodeError, match="a raw camera file, which is not read; save it as PNG or JPEG"):
        images.decode(encoded(photo(), "TIFF", tiffinfo=tag), 8)


@needs_heif
def test_without_the_extra_a_heic_photo_is_called_that_and_the_command_named(monkeypatch):
    plain = builtins.__import__

    def without(name, *rest, **more):
        if name == "pillow_heif":
            raise ImportError(name)
        return plain(name, *rest, **more)

    data = encoded(photo(), "HEIC")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DecodeError) as caught:
        images.decode(data, 8)
    assert caught.value.problem == "HEIC needs pillow-heif: pip install 'icgan[heif]', or save it as JPEG"
