"""icgan embed."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np

from icgan_runtime import files
from icgan_runtime.cli import shared
from icgan_runtime.console import Parser
from icgan_runtime.errors import RequestError


def add_parser(commands: shared.Commands[Parser]) -> None:
    """Declare the command."""
    command = shared.add_command(
        commands, "embed", run, "icgan embed bundles/demo a.jpg b.jpg --out embeddings.npy"
    )
    shared.add_pipeline(command)
    command.add_argument("--out", type=Path, metavar="FILE", help="write float32 [N, D] as .npy")


def run(options: argparse.Namespace) -> int:
    """Embeddings of pictures, as a .npy file or as JSON."""
    if options.out is None and not options.json:
        raise RequestError("out", "say where to: --out FILE.npy, or --json")
    if options.out is not None:
        files.refuse_folder(options.out, "out")
    with shared.open_pipeline(options) as pipe:
        embedding = pipe.embed(list(options.pictures))
        route = pipe.route
    if options.out is not None:
        stream = io.BytesIO()
        np.save(stream, embedding, allow_pickle=False)
        files.write_whole(options.out, stream.getvalue(), "out")
        shared.say_text(options, f"wrote {options.out}: float32 {list(embedding.shape)}")
    data = {"pictures": options.pictures, "embedding": embedding.tolist()}
    shared.say_result(options, route, data)
    return 0
