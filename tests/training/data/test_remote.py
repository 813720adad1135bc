"""Pictures by URL: fsspec's memory, a disk by its URL, and an S3 server where one is installed."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icgan_training.cli import main
from icgan_training.data.prepare import prepare
from icgan_training.data.sources import open_source
from icgan_training.errors import DataError, StorageError
from tests.training.data.test_on_ray import hashes

fsspec = pytest.importorskip("fsspec")
BUCKET = "s3://icgan-test/photos"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Two classes, a picture in a folder of its own below one, one that cannot be read, and others' files."""
    folder = tmp_path_factory.mktemp("disk") / "photos"
    rng = np.random.default_rng(0)
    for name in (*(f"left/{i}.png" for i in range(9)), "left/a/1.png", "left/a.png", "right/x.jpg"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).save(path)
    for name in ("left/broken.png", "left/.hidden.png", "_trash/0.png", "right/notes.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"no picture")
    (folder / "source.json").write_text('{"name": "photos", "source": "us", "licence": "CC0-1.0"}')
    return folder


@pytest.fixture
def in_memory(pictures):
    """They in fsspec's memory, at memory://photos."""
    storage = fsspec.filesystem("memory")
    for path in pictures.rglob("*"):
        if path.is_file():
            storage.pipe(f"/photos/{path.relative_to(pictures).as_posix()}", path.read_bytes())
    yield "memory://photos"
    storage.rm("/photos", recursive=True)


@pytest.fixture
def local(pictures, encoder_file, tmp_path):
    """What preparing the folder gives."""
    return prepared(pictures, tmp_path / "local", encoder_file)


def prepared(source, out, encoder, **options):
    prepare(source, out, **{"resolution": 8, "encoder": str(encoder), "neighbours": 3, **options})
    return hashes(out)


def without_places(found):
    """The hashes but for the list of unreadable files, which names where they lie."""
    return {name: value for name, value in found.items() if name != "unreadable.txt"}


def test_a_set_from_a_storage_has_the_hashes_of_one_from_a_folder(
    in_memory, local, encoder_file, tmp_path, capsys
):
    found = prepared(in_memory, tmp_path / "out", encoder_file)
    assert without_places(found) == without_places(local)
    assert (tmp_path / "out" / "unreadable.txt").read_text() == "memory://photos/left/broken.png\n"
    assert "not looked at, because no ending of pictures: 1 of .txt" in capsys.readouterr().err


def test_a_disk_can_be_named_by_a_url(pictures, local, encoder_file, tmp_path):
    found = prepared(f"file://{pictures}", tmp_path / "out", encoder_file)
    assert without_places(found) == without_places(local)


def test_webdataset_shards_are_read_in_the_storage(pictures, encoder_file, tmp_path):
    path = tmp_path / "shards" / "0.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as archive:
        for number, picture in enumerate(sorted((pictures / "left").glob("[0-9].png"))):
            for ending, data in (("png", picture.read_bytes()), ("cls", str(number % 2).encode())):
                member = tarfile.TarInfo(f"{number:03d}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    storage = fsspec.filesystem("memory")
    storage.pipe("/shards/0.tar", path.read_bytes())
    try:
        found = prepared("memory://shards", tmp_path / "out", encoder_file)
    finally:
        storage.rm("/shards", recursive=True)
    assert found == prepared(path.parent, tmp_path / "disk", encoder_file)


def test_a_storage_that_stops_answering_ends_the_run_and_no_picture_is_left_out(
    in_memory, local, encoder_file, tmp_path, monkeypatch
):
    storage = type(fsspec.filesystem("memory"))
    answers = storage.cat_file

    def gone(self, path, **options):
        if path.endswith("7.png"):
            raise TimeoutError("no answer")
        return answers(self, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "cat_file", gone)
        with pytest.raises(StorageError, match=r"7\.png .*no answer.*same command"):
            prepared(in_memory, tmp_path / "out", encoder_file)
    assert without_places(prepared(in_memory, tmp_path / "out", encoder_file)) == without_places(local)


def test_a_picture_that_vanished_is_left_out(in_memory, tmp_path):
    source = open_source(in_memory)
    fsspec.filesystem("memory").rm("/photos/left/0.png")
    with pytest.raises(DataError, match="not there any more"):
        source.read(source.files.index("left/0.png"), 8)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://nothing-here", "cannot be listed|holds no pictures"),
        ("nonsense://bucket/photos", "nonsense"),
    ],
)
def test_a_url_that_leads_nowhere_is_one_line(url, message):
    with pytest.raises(DataError, match=message):
        open_source(url)


def test_without_the_library_of_a_storage_the_install_command_is_named(
    encoder_file, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    words = ["prepare", "s3://bucket/photos", "--resolution", "8", "--encoder", str(encoder_file)]
    assert main([*words, "--out", str(tmp_path / "out")]) == 1
    assert "pip install 'icgan[s3]'" in capsys.readouterr().err


@pytest.fixture
def s3(pictures):
    """They in a real S3 server of this machine; what a client has to know of it."""
    pytest.importorskip("s3fs", reason="pip install 'icgan[s3]'")
    pytest.importorskip("moto.server", reason="pip install 'moto[server]'")
    serve = (
        "import sys; from moto.server import ThreadedMotoServer;"
        " server = ThreadedMotoServer('127.0.0.1', 0, verbose=False); server.start();"
        " print(server.get_host_and_port()[1], flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", serve]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:  # which ends with its standard input
        port = server.stdout.readline().strip()
        environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "FSSPEC_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        }
        put = (
            "import fsspec, sys; s = fsspec.filesystem('s3'); s.mkdir('icgan-test');"
            " s.put(sys.argv[1].rstrip('/') + '/', 'icgan-test/photos/', recursive=True)"
        )
        subprocess.run([sys.executable, "-c", put, str(pictures)], env=environment, check=True)
        yield environment


def test_an_s3_bucket_is_prepared_on_ray_as_a_folder_is_here(s3, local, encoder_file, tmp_path):
    words = [sys.executable, "-m", "icgan_training", "prepare", BUCKET, "--resolution", "8"]
    words += ["--encoder", str(encoder_file), "--neighbours", "3", "--out"]
    done = subprocess.run([*words, str(tmp_path / "here")], env=s3, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert without_places(hashes(tmp_path / "here")) == without_places(local)
    pytest.importorskip("ray", reason="pip install 'icgan[ray]'")
    words += [str(tmp_path / "ray"), "--ray", "local", "--workers", "2"]
    done = subprocess.run(words, env=s3, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert without_places(hashes(tmp_path / "ray")) == without_places(local)
