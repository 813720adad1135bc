"""The short version of `make fuzz`: odd files are read, spoilt ones are read or refused, in time."""

from __future__ import annotations

import contextlib
import time

import numpy as np
import pytest

from icgan_runtime import images
from icgan_runtime.errors import DecodeError
from tests.abuse.pictures import odd_files

FILES = odd_files()
SPOILT = 150  # of each file
SECONDS = 2


@pytest.mark.parametrize("name", FILES)
def test_an_odd_but_sound_file_is_read(name):
    assert images.decode(FILES[name], 32).shape == (32, 32, 3)


@pytest.mark.parametrize("name", FILES)
def test_a_spoilt_file_is_read_or_refused_in_time(name):
    rng = np.random.default_rng(len(FILES[name]))
    for _ in range(SPOILT):
        data = bytearray(FILES[name])
        for place in rng.integers(4, len(data), rng.integers(1, 6)):
            data[place] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))])
        if rng.random() < 0.3:
            del data[rng.integers(4, len(data)) :]
        began = time.monotonic()
        with contextlib.suppress(DecodeError):
            assert images.decode(bytes(data), 32).shape == (32, 32, 3)
        assert time.monotonic() - began < SECONDS, bytes(data).hex()
