"""Coverage-guided fuzzing of picture decoding: `make fuzz`. Needs atheris (extra `fuzz`).

    python -m tests.abuse.fuzz_decode corpus/ -runs=1000000 -max_len=16384

`corpus/` is filled with real files of odd kinds first. Whatever the bytes, `images.decode` must return the
encoder's input or raise DecodeError, within two seconds of the processor and within the memory limit.
Anything else stops the run and leaves the bytes in a file `crash-...`, `timeout-...` or `oom-...`. (A clock
on the wall would count what the machine does for others too; it only ends what never returns.)
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["PIL", "icgan_runtime.images"]):
    from icgan_runtime import images

from icgan_runtime.errors import DecodeError
from tests.abuse.pictures import odd_files

SIZE = 32
SECONDS = 2  # of the processor
NEVER_RETURNS = 60  # seconds of the clock
MEBIBYTES = 2048


def decode_once(data: bytes) -> None:
    began = time.process_time()
    try:
        found = images.decode(data, SIZE)
    except DecodeError:
        found = None
    assert time.process_time() - began < SECONDS, "too slow"
    if found is None:
        return
    assert found.shape == (SIZE, SIZE, 3)
    assert found.dtype == np.uint8


def main() -> None:
    folders = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")]
    if not folders:
        raise SystemExit("name a folder for the corpus")
    folders[0].mkdir(parents=True, exist_ok=True)
    for name, data in odd_files().items():
        (folders[0] / name).write_bytes(data)
    limits = [f"-timeout={NEVER_RETURNS}", f"-rss_limit_mb={MEBIBYTES}", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *limits, *sys.argv[1:]], decode_once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
