import contextlib
import errno
import io
import os
import signal
import socket
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from icgan_runtime.files import sha256_of_file
from icgan_runtime.reader import decode
from icgan_training.cli import main
from icgan_training.data import prepare as prepare_module
from icgan_training.data import shards
from icgan_training.data.dataset import PreparedDataset
from icgan_training.data.npy_rows import Rows
from icgan_training.data.prepare import prepare
from icgan_training.data.transforms import read_picture
from icgan_training.errors import DataError, WeightsError
from icgan_training.networks.encoder import load_encoder
from tests.picture_files import encoded
from tests.processes import wait_until
from tests.training.pictures import write_pictures


@pytest.fixture(scope="module")
def photos(photo, tmp_path_factory):
    """Two classes of six pictures."""
    folder = tmp_path_factory.mktemp("photos")
    write_pictures(folder / "left", photo, 6, seed=1)
    write_pictures(folder / "right", photo, 6, seed=2)
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Three shards of small pictures, as an array."""
    folder = tmp_path_factory.mktemp("many")
    np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 256, (1100, 8, 8, 3), np.uint8))
    return folder


@pytest.fixture(scope="module")
def many_prepared(many, encoder_file, tmp_path_factory):
    """They, prepared without interruption."""
    return run(many, tmp_path_factory.mktemp("straight") / "out", encoder_file, resolution=8)


def run(source, out, encoder, **options):
    prepare(source, out, **{"resolution": 16, "encoder": str(encoder), "neighbours": 3, **options})
    return PreparedDataset.open(out)


@contextlib.contextmanager
def unreadable(*paths):
    """Pictures that are empty for a while, and then what they were."""
    contents = [path.read_bytes() for path in paths]
    for path in paths:
        path.write_bytes(b"")
    yield
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)


def test_a_prepared_set_holds_pictures_embeddings_labels_and_neighbours(photos, encoder_file, tmp_path):
    data = run(photos, tmp_path / "out", encoder_file)
    assert data.images.shape == (12, 16, 16, 3)
    assert np.array_equal(data.images[7], read_picture(photos / "right" / "001.png", 16))
    assert data.labels.tolist() == [0] * 6 + [1] * 6
    assert data.meta.class_names == ["left", "right"]
    assert data.meta.encoder.sha256 == sha256_of_file(encoder_file) == sha256_of_file(data.encoder_path)
    assert data.neighbours.shape == (12, 3)
    with torch.inference_mode():
        network = load_encoder(data.encoder_path)
        plain = network(torch.from_numpy(np.array(data.images)))
        mirrored = network(torch.from_numpy(np.array(data.images[:, :, ::-1])))
    np.testing.assert_allclose(data.embeddings, plain, atol=1e-5)
    np.testing.assert_allclose(data.embeddings_flipped, mirrored, atol=1e-5)


def test_nothing_but_the_data_set_is_left_behind(photos, encoder_file, tmp_path):
    run(photos, tmp_path / "out", encoder_file)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("dataset.json", "encoder.safetensors", "images.npy", "labels.npy"),
        *("embeddings.npy", "embeddings_flipped.npy", "neighbours.npy", "radii.npy"),
        *("names.npy", "name_ends.npy"),
    }


def test_pictures_keep_the_names_of_their_files_and_are_said_to_be_few(
    photos, encoder_file, tmp_path, capsys
):
    data = run(photos, tmp_path / "out", encoder_file)
    assert data.names.pick([0, 7]) == ("left/000.png", "right/001.png")
    said = capsys.readouterr().err
    assert "two random pictures" in said
    assert "warning: 12 pictures are too few" in said


def test_names_follow_pictures_into_the_places_of_unreadable_ones(photo, encoder_file, tmp_path):
    paths = write_pictures(tmp_path / "in", photo, 6)
    paths[1].write_bytes(b"not a picture")
    (tmp_path / "list.csv").write_text("path\n" + "".join(f"{path}\n" for path in paths))
    data = run(tmp_path / "list.csv", tmp_path / "out", encoder_file)
    for row in range(5):  # of a list with whole paths the part that differs
        picture = read_picture(tmp_path / "in" / data.title(row), 16)
        assert np.array_equal(data.images[row], picture)


def test_pictures_are_added_to_a_set_and_only_they_are_embedded(
    photos, photo, encoder_file, tmp_path, monkeypatch
):
    """The same as if all had been prepared together, in another order."""
    before = run(photos, tmp_path / "before", encoder_file)
    write_pictures(tmp_path / "more" / "right", photo, 3, seed=3)
    write_pictures(tmp_path / "more" / "up", photo, 2, seed=4)
    (tmp_path / "more" / "up" / "broken.png").write_bytes(b"no picture")
    embed, embedded = shards.embed, []

    def counted(network, images, *rest):
        embedded.append(len(images))
        return embed(network, images, *rest)

    monkeypatch.setattr(shards, "embed", counted)
    data = run(tmp_path / "more", tmp_path / "both", encoder_file, base=before)
    assert embedded == [5]
    assert [path.name for path in tmp_path.glob("both*")] == ["both"]
    assert (data.meta.count, data.meta.unreadable) == (17, 1)
    assert data.meta.class_names == ["left", "right", "up"]
    assert data.labels.tolist() == [0] * 6 + [1] * 9 + [2] * 2
    assert (data.title(7), data.title(12), data.title(16)) == ("right/001.png", "right/000.png", "up/001.png")
    np.testing.assert_array_equal(data.embeddings[:12], before.embeddings)
    assert np.array_equal(data.images[16], read_picture(tmp_path / "more" / "up" / "001.png", 16))
    scores = data.embeddings @ data.embeddings.T
    np.fill_diagonal(scores, -2)
    near = np.sort(np.take_along_axis(scores, data.neighbours.astype(np.int64), 1))
    np.testing.assert_allclose(near, np.sort(scores)[:, -3:], atol=1e-6)
    data.verify()


def test_pictures_of_another_kind_cannot_be_added(photos, photo, encoder_file, tmp_path):
    before = run(photos, tmp_path / "before", encoder_file)
    write_pictures(tmp_path / "flat", photo, 2, seed=3)
    with pytest.raises(DataError, match="it has labels, SOURCE has none"):
        run(tmp_path / "flat", tmp_path / "both", encoder_file, base=before)
    with pytest.raises(DataError, match=r"has 16 px and encoder .* not 8 px"):
        run(photos, tmp_path / "both", encoder_file, base=before, resolution=8)


def test_rows_of_an_array_have_no_names(many_prepared):
    assert (many_prepared.names, many_prepared.title(3)) == (None, "row 3")


def test_unreadable_pictures_are_left_out_and_named_at_the_end(photo, encoder_file, tmp_path, capsys):
    paths = write_pictures(tmp_path / "in", photo, 10)
    paths[2].write_bytes(b"not a picture")
    paths[9].write_bytes(paths[9].read_bytes()[:50])
    data = run(tmp_path / "in", tmp_path / "out", encoder_file)
    assert data.meta.count == 8
    assert data.meta.unreadable == 2
    kept = [path for number, path in enumerate(paths) if number not in (2, 9)]
    pictures = {read_picture(path, 16).tobytes() for path in kept}
    assert {image.tobytes() for image in np.array(data.images)} == pictures
    assert (tmp_path / "out" / "unreadable.txt").read_text() == f"{paths[2]}\n{paths[9]}\n"
    assert str(paths[9]) in capsys.readouterr().err


def test_a_picture_that_is_only_too_large_is_named_with_that_reason(
    photo, encoder_file, tmp_path, capsys, monkeypatch
):
    paths = write_pictures(tmp_path / "in", photo, 8)
    photo.resize((100, 100)).save(paths[3])
    monkeypatch.setattr(decode, "MAX_PIXELS", 9999)
    assert run(tmp_path / "in", tmp_path / "out", encoder_file).meta.unreadable == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if str(paths[3]) in line)
    assert line.strip() == f"{paths[3]}: 100 × 100 pixels, at most 9999 are accepted"


def test_labels_follow_their_pictures_when_holes_are_filled(photo, encoder_file, tmp_path):
    write_pictures(tmp_path / "in" / "a", photo, 4, seed=1)[1].write_bytes(b"")
    write_pictures(tmp_path / "in" / "b", photo, 4, seed=2)[0].write_bytes(b"")
    data = run(tmp_path / "in", tmp_path / "out", encoder_file)
    for image, label in zip(np.array(data.images), data.labels, strict=True):
        folder = tmp_path / "in" / "ab"[label]
        assert any(
            np.array_equal(image, read_picture(path, 16)) for path in folder.iterdir() if path.stat().st_size
        )


def test_pictures_that_come_back_are_read_by_the_same_command(photo, encoder_file, tmp_path):
    paths = write_pictures(tmp_path / "in", photo, 8)
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    (tmp_path / "list.csv").write_text("path\n" + "".join(f"{path}\n" for path in paths))
    refused("none of the 8 pictures can be read", tmp_path / "list.csv", tmp_path / "out", encoder_file)
    (tmp_path / "elsewhere").rename(tmp_path / "in")
    data = run(tmp_path / "list.csv", tmp_path / "out", encoder_file)
    assert data.meta.count == 8
    assert np.array_equal(data.images[7], read_picture(paths[7], 16))


def test_a_disk_that_was_gone_for_some_shards_is_read_when_it_is_back(
    photo, encoder_file, tmp_path, monkeypatch
):
    monkeypatch.setattr(shards, "SHARD_PICTURES", 4)
    paths = write_pictures(tmp_path / "in", photo, 10)
    straight = run(tmp_path / "in", tmp_path / "straight", encoder_file)
    with unreadable(paths[1], *paths[4:]):
        refused("use --neighbours 2 or less", tmp_path / "in", tmp_path / "out", encoder_file)
    data = run(tmp_path / "in", tmp_path / "out", encoder_file)
    assert data.meta.unreadable == 1  # only shards without any picture are read again
    assert np.array_equal(data.images, straight.images[[0, 9, *range(2, 9)]])
    assert np.array_equal(data.embeddings, straight.embeddings[[0, 9, *range(2, 9)]])


def start(source: Path, out: Path, encoder: Path, **environment: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "icgan_training", "prepare", str(source), "--out", str(out)]
    command += ["--resolution", "8", "--neighbours", "3", "--encoder", str(encoder)]
    training = str(Path(__file__).parents[3] / "training")
    return subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": training, **environment}, stderr=subprocess.DEVNULL
    )


def write_tar(path: Path, pictures: "np.ndarray[Any, Any]") -> None:
    with tarfile.open(path, "w") as archive:
        for number, picture in enumerate(pictures):
            data = encoded(Image.fromarray(picture), "PNG")
            member = tarfile.TarInfo(f"{number:06d}.png")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_a_killed_run_continues_without_redoing_finished_shards(many, many_prepared, encoder_file, tmp_path):
    shards = tmp_path / "out.partial" / "shards"
    finished: dict[str, int] = {}
    for number in range(2):
        process = start(many, tmp_path / "out", encoder_file)
        wait_until((shards / f"{number:06d}.json").exists, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for marker in shards.glob("*.json"):
            assert finished.setdefault(marker.name, marker.stat().st_mtime_ns) == marker.stat().st_mtime_ns
    assert not (tmp_path / "out").exists()
    assert start(many, tmp_path / "out", encoder_file).wait() == 0
    resumed = PreparedDataset.open(tmp_path / "out")
    assert np.array_equal(resumed.images, many_prepared.images)
    np.testing.assert_allclose(resumed.embeddings, many_prepared.embeddings, atol=1e-6)


def test_a_killed_run_on_a_container_continues_with_the_same_pictures(
    many, many_prepared, encoder_file, tmp_path
):
    shard = tmp_path / "many.tar"
    write_tar(shard, np.load(many / "images.npy"))
    process = start(shard, tmp_path / "out", encoder_file)
    wait_until((tmp_path / "out.partial" / "shards" / "000000.json").exists, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert start(shard, tmp_path / "out", encoder_file).wait() == 0
    assert np.array_equal(PreparedDataset.open(tmp_path / "out").images, many_prepared.images)


def test_a_container_that_changed_under_a_killed_run_is_refused(many, encoder_file, tmp_path):
    shard, pictures = tmp_path / "many.tar", np.load(many / "images.npy")
    write_tar(shard, pictures)
    process = start(shard, tmp_path / "out", encoder_file)
    wait_until((tmp_path / "out.partial" / "shards" / "000000.json").exists, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    write_tar(shard, pictures[1:])
    refused("out.partial", shard, tmp_path / "out", encoder_file, resolution=8)


def test_a_run_killed_just_before_its_end_is_finished(photos, encoder_file, tmp_path):
    run(photos, tmp_path / "out", encoder_file)
    (tmp_path / "out").rename(tmp_path / "out.partial")
    (tmp_path / "out.partial" / "settings.json").write_text("{}")
    assert run(photos, tmp_path / "out", encoder_file).meta.count == 12
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "settings.json").exists()


def test_holes_are_filled_the_same_when_filling_was_interrupted(photo, encoder_file, tmp_path, monkeypatch):
    write_pictures(tmp_path / "in", photo, 10)
    for number in (1, 4, 9):
        (tmp_path / "in" / f"{number:03d}.png").write_bytes(b"")
    straight = run(tmp_path / "in", tmp_path / "straight", encoder_file)

    shorten, calls = Rows.shorten, []

    def killed_at_the_second(rows, count):
        calls.append(count)
        if len(calls) == 2:
            raise KeyboardInterrupt
        shorten(rows, count)

    monkeypatch.setattr(Rows, "shorten", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "in", tmp_path / "out", encoder_file)
    monkeypatch.undo()
    resumed = run(tmp_path / "in", tmp_path / "out", encoder_file)
    assert np.array_equal(resumed.images, straight.images)
    assert np.array_equal(resumed.embeddings, straight.embeddings)
    assert resumed.meta == straight.meta


def test_pictures_that_come_back_when_holes_are_filled_already_stay_out(
    photo, encoder_file, tmp_path, monkeypatch
):
    monkeypatch.setattr(shards, "SHARD_PICTURES", 4)
    paths = write_pictures(tmp_path / "in", photo, 10)
    straight = run(tmp_path / "in", tmp_path / "straight", encoder_file)
    with unreadable(*paths[4:8]), monkeypatch.context() as stopped:
        stopped.setattr(prepare_module, "find_neighbours", lambda *_, **__: 1 / 0)
        refused("division by zero", tmp_path / "in", tmp_path / "out", encoder_file, ZeroDivisionError)
    data = run(tmp_path / "in", tmp_path / "out", encoder_file)
    assert data.meta.unreadable == 4
    assert np.array_equal(data.images, straight.images[[0, 1, 2, 3, 8, 9]])


def test_two_processes_share_the_shards(many, many_prepared, encoder_file, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    processes = [
        start(many, tmp_path / "out", encoder_file, RANK=str(rank), LOCAL_RANK=str(rank), **group)
        for rank in range(2)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    shared = PreparedDataset.open(tmp_path / "out")
    assert shared.meta == many_prepared.meta  # every hash, though one has a thread and the other all cores


def test_a_partial_folder_of_other_settings_is_not_continued(many, encoder_file, tmp_path):
    process = start(many, tmp_path / "out", encoder_file)
    wait_until((tmp_path / "out.partial" / "shards" / "000000.json").exists, process)
    process.kill()
    process.wait()
    with pytest.raises(DataError, match=r"other settings \(resolution was 8, is 16\): remove it"):
        run(many, tmp_path / "out", encoder_file)


def test_embeddings_are_not_shortened_on_a_gpu():
    shortened = []

    def network(images):
        shortened.append(torch.backends.cudnn.allow_tf32)
        return torch.ones(len(images), 4)

    encoder: Any = network
    images, cpu = np.zeros((3, 8, 8, 3), np.uint8), torch.device("cpu")
    plain, flipped = shards.embed(encoder, images, cpu, lambda _: None)
    assert plain.shape == flipped.shape == (3, 4)
    assert shortened == [False, False]


def test_a_set_too_small_for_k_is_finished_with_a_smaller_k_without_embedding_again(
    photo, encoder_file, tmp_path
):
    for path in write_pictures(tmp_path / "in", photo, 8)[:2]:
        path.write_bytes(b"")
    refused("use --neighbours 5 or less", tmp_path / "in", tmp_path / "out", encoder_file, neighbours=6)
    shard = tmp_path / "out.partial" / "shards" / "000000.json"
    written = (tmp_path / "out.partial" / "embeddings.npy").stat().st_mtime_ns
    assert shard.exists()
    data = run(tmp_path / "in", tmp_path / "out", encoder_file, neighbours=2)
    assert data.neighbours.shape == (6, 2)
    assert written < (tmp_path / "out" / "dataset.json").stat().st_mtime_ns


def test_a_disk_that_takes_a_part_of_a_write_is_given_the_rest(tmp_path, monkeypatch):
    np.save(tmp_path / "rows.npy", np.zeros((6, 50), np.uint8))
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, content, place: pwrite(file, content[:30], place))
    written = np.arange(150, dtype=np.uint8).reshape(3, 50)
    with Rows(tmp_path / "rows.npy") as rows:
        rows.write(np.array([1, 2, 4]), written)
        rows.move(2, to=5)
    assert np.array_equal(np.load(tmp_path / "rows.npy")[[1, 2, 4, 5]], written[[0, 1, 2, 1]])


def test_a_full_disk_is_named_and_the_same_command_goes_on(
    many, many_prepared, encoder_file, tmp_path, monkeypatch
):
    pwrite, room = os.pwrite, [6_000_000]  # two shards of embeddings fit, and a part of a third write

    def almost_full(file, content, place):
        if room[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = pwrite(file, content[: room[0]], place)
        room[0] -= written
        return written

    monkeypatch.setattr(os, "pwrite", almost_full)
    refused(
        r"embeddings\w*\.npy could not be written .*No space left.*free some space and run the same",
        *(many, tmp_path / "out", encoder_file),
        resolution=8,
    )
    shards = tmp_path / "out.partial" / "shards"
    assert sorted(path.name for path in shards.iterdir()) == ["000000.json"]
    monkeypatch.undo()
    resumed = run(many, tmp_path / "out", encoder_file, resolution=8)
    assert np.array_equal(resumed.images, many_prepared.images)
    np.testing.assert_allclose(resumed.embeddings, many_prepared.embeddings, atol=1e-6)
    np.testing.assert_allclose(resumed.embeddings_flipped, many_prepared.embeddings_flipped, atol=1e-6)


def refused(message, source, out, encoder, error=DataError, **options):
    with pytest.raises(error, match=message):
        run(source, out, encoder, **options)


def test_one_picture_is_refused(photo, encoder_file, tmp_path):
    write_pictures(tmp_path / "in", photo, 1)
    refused("at least two", tmp_path / "in", tmp_path / "out", encoder_file)


def test_fewer_pictures_than_neighbours_are_refused_with_the_fix(photos, encoder_file, tmp_path):
    refused("use --neighbours 11 or less", photos, tmp_path / "out", encoder_file, neighbours=12)


def test_identical_pictures_are_refused(photo, encoder_file, tmp_path):
    for number in range(6):
        (tmp_path / "in").mkdir(exist_ok=True)
        photo.save(tmp_path / "in" / f"{number}.png")
    refused("identical copies", tmp_path / "in", tmp_path / "out", encoder_file)


def test_a_set_without_one_readable_picture_is_refused(tmp_path, encoder_file):
    (tmp_path / "in").mkdir()
    for number in range(5):
        (tmp_path / "in" / f"{number}.png").write_bytes(b"junk")
    refused("none of the 5 pictures can be read", tmp_path / "in", tmp_path / "out", encoder_file)


def test_an_encoder_that_gives_nan_is_refused_and_the_picture_named(photos, broken_encoder_file, tmp_path):
    refused(
        r"left/000\.png: the encoder gave no unit embedding", photos, tmp_path / "out", broken_encoder_file
    )


def test_an_input_size_below_what_encoders_can_halve_is_refused(photos, encoder_file, tmp_path):
    refused(
        "--input-size is 16, it must be at least 32", photos, tmp_path / "out", encoder_file, input_size=16
    )


def test_an_unknown_encoder_is_refused_with_the_known_names(photos, tmp_path):
    refused(
        "--encoder vgg is neither a file nor one of resnet50, efficientnet-lite0, timm:NAME$",
        photos,
        tmp_path / "out",
        "vgg",
        error=WeightsError,
    )


@pytest.mark.parametrize("encoder", ["inception", "no encoder.pth", "no encoder.safetensors"])
def test_what_is_no_encoder_leaves_nothing_behind(encoder, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("no encoder.pth", "no encoder.safetensors"):
        Path(name).write_bytes(b"text")
    refused(encoder, photos, tmp_path / "below" / "out", encoder, error=WeightsError)
    assert not (tmp_path / "below" / "out.partial").exists()


def test_an_existing_folder_is_never_overwritten(photos, encoder_file, tmp_path):
    (tmp_path / "out").mkdir()
    refused("exists already", photos, tmp_path / "out", encoder_file)


def test_a_mistake_on_the_command_line_is_one_line_and_status_1(encoder_file, tmp_path, capsys):
    arguments = ["prepare", str(tmp_path), "--out", str(tmp_path / "out"), "--resolution", "16"]
    assert main([*arguments, "--encoder", str(encoder_file)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("icgan-train: ")
    assert error.count("\n") == 1


def test_another_input_size_is_written_into_the_encoder_of_the_set(photos, encoder_file, tmp_path):
    data = run(photos, tmp_path / "out", encoder_file, input_size=48)
    assert data.meta.encoder.input_size == 48
    assert load_encoder(data.encoder_path).config.input_size == 48
    assert data.meta.encoder.sha256 == sha256_of_file(data.encoder_path)
