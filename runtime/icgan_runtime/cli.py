"""The command `icgan`: generate | embed | search | serve | info | bench."""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from icgan_runtime import __version__, files, images
from icgan_runtime.backends.select import BACKENDS
from icgan_runtime.bundle import info
from icgan_runtime.bundle.manifest import PRECISIONS
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.errors import IcganError, RequestError
from icgan_runtime.pipeline import Pipeline
from icgan_runtime.request import Neighbours
from icgan_runtime.rows import CONDITIONS
from icgan_runtime.search.choose import SEARCHES
from icgan_runtime.verify import verify_bundle

# What several commands say of the same argument.
_BUNDLE = "folder that icgan-export bundle wrote"
_URL = "a server instead of a bundle: grpc://localhost:8001 or http://localhost:8000"
_THREADS = "threads per graph, 0 for one per core (default: %(default)s)"

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

# All but newline and tab; and halves of characters, which bytes that are no UTF-8 become in file names.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. A user's mistake is one line on stderr and status 1; a bug keeps its traceback."""
    options = parse(arguments)
    try:
        status: int = options.command(options)
        return status
    except IcganError as error:
        print(f"icgan: {_tame(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("icgan: interrupted", file=sys.stderr)
        return 130


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command, its pictures before, between or after them.

    argparse fills PICTURE from the words before the first option and does not know what the others are.
    """
    parser = build_parser()
    options, others = parser.parse_known_args(arguments)
    if "pictures" in options and not any(word.startswith("-") for word in others):
        options.pictures += others
    elif others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    return options


def generate(options: argparse.Namespace) -> int:
    """Pictures that follow each given picture, on one sheet: the instance on the left, samples beside it."""
    kind = _image_format(options.out)
    rows, report = [], []
    with _open(options) as pipe:
        for picture in options.pictures:
            instance = images.load(picture, pipe.model.resolution)  # refused here, a picture is named
            result = pipe.generate(
                picture,
                n=options.n,
                seed=options.seed,
                truncation=options.truncation,
                condition=options.condition,
                label=options.label,
            )
            rows.append(_strip(instance, result.images, options.columns))
            report.append({"picture": picture, "neighbours": _neighbours(result.neighbours)})
            _say(options, _line(picture, result.neighbours))
    _write(options.out, _encode(images.grid(np.stack(rows), columns=1), kind))
    _say(options, f"wrote {options.out}")
    _data(options, {"out": str(options.out), "seed": options.seed, "n": options.n, "pictures": report})
    return 0


def embed(options: argparse.Namespace) -> int:
    """Embeddings of pictures, as a .npy file or as JSON."""
    if options.out is None and not options.json:
        raise RequestError("out", "say where to: --out FILE.npy, or --json")
    if options.out is not None:
        _refuse_folder(options.out)
    with _open(options) as pipe:
        embedding = pipe.embed(list(options.pictures))
    if options.out is not None:
        stream = io.BytesIO()
        np.save(stream, embedding, allow_pickle=False)
        _write(options.out, stream.getvalue())
        _say(options, f"wrote {options.out}: float32 {list(embedding.shape)}")
    _data(options, {"pictures": options.pictures, "embedding": embedding.tolist()})
    return 0


def search(options: argparse.Namespace) -> int:
    """The stored instances nearest to each picture."""
    kind = None if options.out is None else _image_format(options.out)
    rows, report = [], []
    with _open(options) as pipe:
        bank = pipe.chain.bank
        if kind is not None and (bank is None or bank.thumbnails is None):
            raise RequestError("out", "there are no thumbnails at hand to draw")
        ids, scores = pipe.search(pipe.embed(list(options.pictures)), k=options.k)
        for picture, row_ids, row_scores in zip(options.pictures, ids, scores, strict=True):
            labels = bank.labels[bank.rows(row_ids)] if bank is not None and bank.labels is not None else None
            found = Neighbours(row_ids, row_scores, labels)
            report.append({"picture": picture, "neighbours": _neighbours(found)})
            _say(options, _line(picture, found))
            if kind is not None and bank is not None and bank.thumbnails is not None:
                thumbnails = bank.thumbnails[bank.rows(row_ids)]
                rows.append(_strip(images.load(picture, thumbnails.shape[1]), thumbnails, len(row_ids)))
    if kind is not None:
        _write(options.out, _encode(images.grid(np.stack(rows), columns=1), kind))
        _say(options, f"wrote {options.out}")
    _data(options, {"pictures": report})
    return 0


def serve(options: argparse.Namespace) -> int:
    """A Triton server for this machine, until Ctrl-C; needs the extra `serve`."""
    from icgan_runtime.server.process import LOOPBACK, Options, Ports
    from icgan_runtime.server.serve_bundle import Choices, serve_bundle

    # as Ctrl-C, which a background job of a script is started without
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = Options(Ports(options.http_port, options.grpc_port, options.metrics_port), options.host)
    served = serve_bundle(
        options.bundle,
        settings,
        Choices(options.lookup, options.max_batch, options.generators),
        options.log,
        _log,
    )
    with served as server:
        host = LOOPBACK if options.host == "0.0.0.0" else options.host
        _say(options, f"serving {options.bundle} until Ctrl-C, metrics at {server.metrics_url}")
        _say(options, f"  icgan generate --url grpc://{host}:{options.grpc_port} photo.jpg --out grid.png")
        _say(options, f"  icgan generate --url http://{host}:{options.http_port} photo.jpg --out grid.png")
        _data(options, {"http": server.http_url, "grpc": server.grpc_url, "metrics": server.metrics_url})
        try:
            server.wait()
        except KeyboardInterrupt:
            _say(options, "stopping when the requests in flight are answered")
    return 0


def _log(line: str) -> None:
    """One line on stderr, past Python's buffers: a full disk under it costs lines, not the service."""
    with contextlib.suppress(OSError):
        os.write(sys.stderr.fileno(), f"{_tame(line)}\n".encode())


def show(options: argparse.Namespace) -> int:
    """What a bundle holds; with --verify, whether it is what it says."""
    if not options.verify:
        _refuse_given(options, ("backend",), "is for --verify, which runs the graphs")
    bundle = Bundle.open(options.bundle)
    if not options.verify:
        facts = info.describe(bundle)
        _say(options, info.render(facts))
        _data(options, facts)
        return 0
    checks = []
    for check in verify_bundle(bundle, options.backend):
        checks.append(check)
        _say(options, f"{'ok    ' if check.passed else 'FAILED'} {check.name}: {check.detail}")
    failed = sum(not check.passed for check in checks)
    _say(options, f"{len(checks)} checks, {failed} failed")
    _data(options, {"passed": failed == 0, "checks": [vars(check) for check in checks]})
    return 1 if failed else 0


def time_routes(options: argparse.Namespace) -> int:
    """How fast encoder and generator run, beside other ways; with --url, what load a server takes."""
    from icgan_runtime import bench, load

    remote = options.url is not None
    ignored, reason = (_OF_ROUTES, "beside --url") if remote else (_OF_SERVERS, "without --url")
    _refuse_given(options, ignored, f"means nothing {reason}: leave it out")
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise RequestError("out", f"{options.out} is no folder; name one for the report")
    if remote:
        progress = functools.partial(print, file=sys.stderr, flush=True)
        images.load(options.bundle, 1)  # a bad picture is the caller's mistake, not the server's
        picture = images.read(options.bundle)
        stood = load.measure(options.url, picture, seconds=options.seconds, progress=progress)
        return _report(options.out, load.table(stood), stood)
    report = bench.bench(
        options.bundle,
        _list(options.against),
        batches=[_whole("batches", part) for part in _list(options.batches)],
        rounds=options.rounds,
        threads=options.threads,
        progress=lambda line: print(line, file=sys.stderr, flush=True),
    )
    return _report(options.out, bench.table(report), report)


def _report(out: Path | None, table: str, report: Mapping[str, Any]) -> int:
    """Print a benchmark's table and, as the last line, its JSON; both also into a folder."""
    _print(table)
    if out is not None:
        _write(out / "bench.json", (json.dumps(report, indent=1) + "\n").encode())
        _write(out / "bench.txt", (table + "\n").encode())
    _print(json.dumps(report))
    return 0


class _Parser(argparse.ArgumentParser):
    """Help opens with the example, above the usage."""

    def format_help(self) -> str:
        usage, example, rest = super().format_help().split("\n\n", 2)
        return f"{example}\n\n{usage}\n\n{rest}"


def build_parser() -> argparse.ArgumentParser:
    """The command line; `options.command(options)` runs the chosen command."""
    parser = _Parser(
        prog="icgan",
        description="example: icgan generate bundles/demo photo.jpg -n 8 --seed 0 --out grid.png\n\n"
        "Instance-conditioned image generation from an exported bundle, without torch.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"icgan {__version__}", help="print the version and exit"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_generate(commands)
    _add_embed(commands)
    _add_search(commands)
    _add_serve(commands)
    _add_info(commands)
    _add_bench(commands)
    return parser


def _add_generate(commands: Any) -> None:
    command = _command(
        commands,
        generate,
        "generate",
        "icgan generate bundles/demo photo.jpg -n 16 --truncation 0.7 --out grid.png",
    )
    _add_pipeline(command)
    command.add_argument(
        "-n", type=int, default=8, help="pictures to generate for each given one (default: %(default)s)"
    )
    command.add_argument(
        "--seed", type=int, default=0, metavar="N", help="same seed, same pictures (default: %(default)s)"
    )
    command.add_argument(
        "--truncation",
        type=_truncation,
        default=1.0,
        metavar="T",
        help="noise within ±2T, T in (0, 1]: less is more typical and less varied; or none (default: 1)",
    )
    command.add_argument(
        "--condition",
        choices=CONDITIONS,
        default="query",
        help="what is followed: the picture itself, its nearest stored instance, or one drawn from the k "
        "nearest (default: %(default)s)",
    )
    command.add_argument(
        "--label", type=int, metavar="N", help="class, for models with labels (default: the instance's own)"
    )
    command.add_argument(
        "--columns",
        type=int,
        default=8,
        metavar="N",
        help="samples per row of the sheet (default: %(default)s)",
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path("grid.png"),
        metavar="FILE",
        help="sheet to write, as .png, .jpg or .webp (default: %(default)s)",
    )


def _add_embed(commands: Any) -> None:
    command = _command(commands, embed, "embed", "icgan embed bundles/demo a.jpg b.jpg --out embeddings.npy")
    _add_pipeline(command)
    command.add_argument("--out", type=Path, metavar="FILE", help="write float32 [N, D] as .npy")


def _add_search(commands: Any) -> None:
    command = _command(
        commands, search, "search", "icgan search bundles/demo photo.jpg -k 5 --out neighbours.png"
    )
    _add_pipeline(command)
    command.add_argument("-k", type=int, help="how many instances (default: the bundle's k)")
    command.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="draw the instances' thumbnails on a sheet, as .png, .jpg or .webp; not with --url",
    )


def _add_serve(commands: Any) -> None:
    command = _command(commands, serve, "serve", "icgan serve bundles/demo --http-port 8000 --grpc-port 8001")
    command.add_argument("bundle", type=Path, metavar="BUNDLE", help=_BUNDLE)
    command.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (default: %(default)s)"
    )
    for name, port in (("HTTP", 8000), ("gRPC", 8001), ("metrics", 8002)):
        command.add_argument(
            f"--{name.lower()}-port",
            type=int,
            default=port,
            metavar="PORT",
            help=f"port for {name} (default: %(default)s)",
        )
    command.add_argument(
        "--lookup",
        choices=("faiss", "faiss-ivf", "graph"),
        default="faiss",
        help="how neighbours are found; faiss-ivf is approximate, graph is ONNX (default: %(default)s)",
    )
    command.add_argument(
        "--max-batch", type=int, default=32, metavar="N", help="rows per batch (default: %(default)s)"
    )
    command.add_argument(
        "--generators",
        type=int,
        default=1,
        metavar="N",
        help="run N generators side by side, on one thread each: more pictures per second, each later "
        "(default: 1, on all cores)",
    )
    command.add_argument(
        "--log",
        choices=("error", "warning", "info"),
        default="warning",
        help="show the server's log from this level up (default: %(default)s)",
    )


def _add_info(commands: Any) -> None:
    command = _command(commands, show, "info", "icgan info --verify bundles/demo")
    command.add_argument("bundle", metavar="BUNDLE", help=_BUNDLE)
    command.add_argument(
        "--verify", action="store_true", help="check every hash and binding, and run the pinned samples"
    )
    command.add_argument(
        "--backend",
        choices=BACKENDS[1:],
        default="ort-cpu",
        help="what runs the samples of --verify (default: %(default)s)",
    )


def _add_bench(commands: Any) -> None:
    command = _command(
        commands,
        time_routes,
        "bench",
        "icgan bench bundles/demo --against onnxruntime,openvino --out report/\n"
        "         icgan bench --url grpc://localhost:8001 photo.jpg --out report/",
    )
    command.add_argument("bundle", metavar="BUNDLE", help=f"{_BUNDLE}; with --url, a picture instead")
    command.add_argument("--url", help=_URL)
    command.add_argument(
        "--seconds",
        type=float,
        default=10,
        metavar="S",
        help="of each load scenario, with --url (default: %(default)s)",
    )
    command.add_argument(
        "--against",
        default="onnxruntime",
        metavar="ROUTES",
        help="comma-separated, the first is the base: onnxruntime, onnxruntime-cuda, openvino, each with "
        ":fp16 or :int8 for a precision; torch, or torch:RUN where the weights have moved "
        "(default: %(default)s)",
    )
    command.add_argument(
        "--batches", default="1,8", metavar="LIST", help="comma-separated sizes (default: %(default)s)"
    )
    command.add_argument(
        "--rounds", type=int, default=20, metavar="N", help="timed rounds (default: %(default)s)"
    )
    command.add_argument("--threads", type=int, default=0, metavar="N", help=_THREADS)
    command.add_argument(
        "--out", type=Path, metavar="FOLDER", help="folder for bench.json and bench.txt (default: none)"
    )


def _command(commands: Any, run: Any, name: str, example: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=run.__doc__.splitlines()[0],
        description=f"example: {example}\n\n{run.__doc__}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(command=run, parser=command)
    if run is not time_routes:  # which always ends in a JSON line
        command.add_argument(
            "--json", action="store_true", help="print the result as one line of JSON instead of text"
        )
    return command


def _add_pipeline(command: argparse.ArgumentParser) -> None:
    command.add_argument("bundle", metavar="BUNDLE", help=f"{_BUNDLE}; leave it out with --url")
    command.add_argument(
        "pictures", nargs="*", metavar="PICTURE", help="JPEG, PNG, WEBP, GIF, BMP or TIFF file"
    )
    group = command.add_argument_group(
        "where it runs (in this process without --url, which excludes the others)"
    )
    group.add_argument("--url", help=_URL)
    group.add_argument(
        "--backend",
        choices=BACKENDS,
        default="auto",
        help="what runs the graphs (default: %(default)s, the best that is here)",
    )
    group.add_argument(
        "--precision", choices=PRECISIONS, help="of the graphs (default: the highest in the bundle)"
    )
    group.add_argument(
        "--search",
        choices=SEARCHES,
        default="auto",
        help="how neighbours are found; faiss-ivf is approximate (default: %(default)s, faiss where it is "
        "installed)",
    )
    group.add_argument("--threads", type=int, default=0, metavar="N", help=_THREADS)


# Options of `_add_pipeline` that a server has chosen already.
_IN_PROCESS = ("backend", "precision", "search", "threads")
# Options of `bench` that only one of its two uses heeds.
_OF_ROUTES = ("against", "batches", "rounds", "threads")
_OF_SERVERS = ("seconds",)


def _refuse_given(options: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Refuse options that this use of a command would ignore, unless they are at their defaults."""
    for name in names:
        if getattr(options, name) != options.parser.get_default(name):
            options.parser.error(f"--{name} {why}")


def _open(options: argparse.Namespace) -> Pipeline:
    """The pipeline that the options ask for. With --url, what stands in the bundle's place is a picture."""
    if options.url is not None:
        options.pictures = [options.bundle, *options.pictures]
    if not options.pictures:
        options.parser.error("the following arguments are required: PICTURE")
    if options.url is not None:
        _refuse_given(options, _IN_PROCESS, "is the server's choice: leave it out beside --url")
        return Pipeline.connect(options.url)
    return Pipeline.load(
        options.bundle,
        backend=options.backend,
        precision=options.precision,
        search=options.search,
        threads=options.threads,
    )


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _whole(field: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise RequestError(field, f"{text!r}, expected whole numbers separated by commas") from None


def _truncation(text: str) -> float | None:
    try:
        return None if text == "none" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number in (0, 1] nor none") from None


def _strip(instance: images.U8, samples: images.U8, columns: int) -> images.U8:
    """The instance on the left, its samples beside it in rows of `columns`."""
    if columns < 1:
        raise RequestError("columns", f"{columns}, expected at least 1")
    sheet = images.grid(samples, columns)
    left = np.full((sheet.shape[0], instance.shape[1] + 6, 3), 255, np.uint8)
    left[: instance.shape[0], : instance.shape[1]] = instance
    return np.concatenate([left, sheet], axis=1)


def _refuse_folder(out: Path) -> None:
    """Refuse, before any work is done, to write a file where a folder is."""
    if out.is_dir():
        raise RequestError("out", f"{out} is a folder; name a file in it")


def _image_format(out: Path) -> str:
    _refuse_folder(out)
    try:
        return FORMATS[out.suffix.lower()]
    except KeyError:
        raise RequestError("out", f"{out}, expected a name ending in {', '.join(FORMATS)}") from None


def _encode(sheet: images.U8, kind: str) -> bytes:
    """A sheet as a file; WEBP and JPEG end at 16,383 and 65,500 pixels a side."""
    try:
        return images.encode(sheet, kind)
    except (ValueError, OSError):
        height, width, _ = sheet.shape
        raise RequestError("out", f"{width} × {height} pixels are too many for a {kind}; use .png") from None


def _write(out: Path, data: bytes) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_file(out) as path:
            path.write_bytes(data)
    except OSError as error:
        raise RequestError("out", f"{out} cannot be written ({error.strerror})") from None


def _neighbours(found: Neighbours) -> list[dict[str, Any]]:
    labels = [None] * len(found.ids) if found.labels is None else found.labels.tolist()
    rows = zip(found.ids.tolist(), found.scores.tolist(), labels, strict=True)
    return [
        {"id": i, "score": score} | ({} if label is None else {"label": label}) for i, score, label in rows
    ]


def _line(picture: str, found: Neighbours) -> str:
    near = ", ".join(f"{i} ({score:.3f})" for i, score in zip(found.ids, found.scores, strict=True))
    return f"{picture}: nearest {near}"


def _tame(text: str) -> str:
    """Text that strangers may have written, with what a terminal would obey, or cannot show, as escapes."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _say(options: argparse.Namespace, text: str) -> None:
    if not options.json:
        _print(_tame(text))


def _data(options: argparse.Namespace, value: object) -> None:
    if options.json:
        _print(json.dumps(value))


def _print(text: str) -> None:
    """A line for whoever reads; when that has seen enough, as `head` has, the work still goes on.

    What the terminal has no letters for is shown as escapes.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
