"""Containers as the libraries that people have write them: h5py, webdataset, pyarrow, datasets."""

import io
import json
import tarfile

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from icgan_training.data.sources import listing_sha256, open_source
from icgan_training.data.transforms import decode_picture
from icgan_training.errors import DataError
from tests.picture_files import encoded

COUNT, SIZE = 20, 16
LABELS = [row % 3 for row in range(COUNT)]


def pictures() -> list[Image.Image]:
    blocks = np.random.default_rng(0).integers(0, 256, (COUNT, 4, 4, 3), np.uint8)
    return [Image.fromarray(np.kron(block, np.ones((8, 8, 1), np.uint8))) for block in blocks]


FILES = [encoded(picture, "PNG") for picture in pictures()]
EXPECTED = [decode_picture(data, "", SIZE) for data in FILES]


def check(path, labels=LABELS, expected=EXPECTED):
    """The source of `path` has these pictures, whatever the order they are asked for in."""
    source = open_source(path)
    assert len(source) == len(expected)
    for row in (*range(len(expected)), 0, len(expected) - 1, 3):
        np.testing.assert_array_equal(source.read(row, SIZE), expected[row])
    assert (None if source.labels is None else source.labels.tolist()) == labels
    assert listing_sha256(source) == listing_sha256(open_source(path))
    return source


def refused(path, sentence):
    with pytest.raises(DataError, match=sentence):
        open_source(path)


# ---- the published system's HDF5 -------------------------------------------------------------------------


@pytest.fixture
def h5py():
    return pytest.importorskip("h5py")


@pytest.mark.parametrize("options", [{"chunks": (8, 3, 32, 32), "compression": "lzf"}, {}])
def test_the_published_systems_hdf5_is_read(h5py, tmp_path, options):
    path = tmp_path / "ILSVRC32_xy.hdf5"
    stack = np.stack([np.asarray(picture) for picture in pictures()]).transpose(0, 3, 1, 2)
    with h5py.File(path, "w") as file:
        file.create_dataset("imgs", data=stack, **options)
        file.create_dataset("labels", data=np.array(LABELS, np.int64))
    source = check(path)
    assert source.name(4) == f"{path} row 4"
    assert source.remarks == [f"{path}: HDF5, 20 pictures"]


def test_an_hdf5_file_without_pictures_or_with_odd_ones_is_refused(h5py, tmp_path):
    with h5py.File(tmp_path / "feats.hdf5", "w") as file:
        file["feats"] = np.zeros((3, 4))
    refused(tmp_path / "feats.hdf5", "holds feats; `imgs` is needed")
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        file["imgs"] = np.zeros((3, 8, 8, 3), np.uint8)
    refused(tmp_path / "odd.h5", r"imgs is uint8 \[3, 8, 8, 3\], expected uint8 \[N, 3, R, R\]")
    (tmp_path / "text.h5").write_text("no such thing")
    refused(tmp_path / "text.h5", "is not an HDF5 file")
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file["imgs"] = h5py.ExternalLink("odd.h5", "imgs")
    refused(tmp_path / "linked.h5", "imgs is not an array of this file")


# ---- WebDataset ------------------------------------------------------------------------------------------


def tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_shards_that_webdataset_wrote_are_read(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(str(tmp_path / "train-%04d.tar"), maxcount=7, verbose=0) as writer:
        for row, (data, label) in enumerate(zip(FILES, LABELS, strict=True)):
            writer.write({"__key__": f"photos/{row:06d}", "png": data, "cls": label})
    source = check(tmp_path)
    assert source.name(8) == f"{tmp_path / 'train-0001.tar'}: photos/000008.png"
    assert source.remarks == [f"{tmp_path}: 3 WebDataset shards, 20 pictures"]
    check(tmp_path / "train-0000.tar", LABELS[:7], EXPECTED[:7])


def test_shards_without_the_library_and_labels_in_json_or_none(tmp_path):
    samples = [(f"{row}", data) for row, data in enumerate(FILES)]
    tar(tmp_path / "none.tar", [(f"{key}.jpg", data) for key, data in samples])
    check(tmp_path / "none.tar", None)
    members = [
        member
        for (key, data), label in zip(samples, LABELS, strict=True)
        for member in (
            (f"{key}.json", b'{"label": %d, "w": 3}' % label),
            (f"{key}.png", data),
            (f"._{key}.png", b""),
        )
    ]
    tar(tmp_path / "json.tar", members)
    check(tmp_path / "json.tar")


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ([("a.png", FILES[0]), ("a.cls", b"1"), ("b.png", FILES[1])], r"b\.png: no label, though others"),
        ([("a.png", FILES[0]), ("a.mask.png", FILES[1])], r"several pictures \(png, mask\.png\)"),
        ([("a.png", FILES[0]), ("a.cls", b"cat")], r"a\.cls is no whole number"),
        ([("a.png", FILES[0]), ("a.json", b'{"label": 1.5}')], r"label 1\.5 is no whole number"),
        ([("a.txt", b"")], "holds no pictures"),
    ],
)
def test_shards_that_cannot_make_a_set_are_refused_by_member(tmp_path, members, sentence):
    tar(tmp_path / "a.tar", members)
    refused(tmp_path / "a.tar", sentence)


def test_a_cut_or_compressed_shard_is_refused(tmp_path):
    tar(tmp_path / "a.tar", [("a.png", FILES[0]), ("b.png", FILES[1])])
    with tarfile.open(tmp_path / "packed.tar", "w:gz"):
        pass
    refused(tmp_path / "packed.tar", "not a whole, uncompressed tar file")
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(data[:700])
    refused(tmp_path / "a.tar", "not a whole, uncompressed tar file")


def test_a_tar_file_of_class_folders_says_that_they_are_no_labels(tmp_path):
    tar(tmp_path / "a.tar", [("cats/a.png", FILES[0]), ("dogs/b.png", FILES[1])])
    source = open_source(tmp_path / "a.tar")
    assert source.labels is None
    assert any("Unpack it, and the folders are the labels" in note for note in source.container.notes)
    tar(tmp_path / "b.tar", [("photos/a.png", FILES[0]), ("photos/b.png", FILES[1])])
    assert open_source(tmp_path / "b.tar").container.notes == []


def test_a_shard_that_tarfile_would_end_early_in_is_refused(tmp_path):
    """Half of the pictures must not be lost without a word."""
    path = tmp_path / "a.tar"
    tar(path, [("a.png", FILES[0]), ("b.png", FILES[1])])
    data = path.read_bytes()
    second = data.index(b"b.png")
    assert len(open_source(path)) == 2
    cases = {
        "damaged": data[: second + 148] + b"12345678" + data[second + 156 :],  # the header's own sum
        "followed by another tar": data + data,
        f"without a mark at byte {second}": data[:second],
        f"after byte {second}": data[: second + 100],
    }
    for sentence, odd in cases.items():
        path.write_bytes(odd)
        refused(path, sentence)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_foreign_names_in_a_shard_are_whole(tmp_path, form):
    name = f"é/{'long' * 40}/7.png"
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as archive:
        member = tarfile.TarInfo(name)
        member.size = len(FILES[0])
        archive.addfile(member, io.BytesIO(FILES[0]))
    assert open_source(tmp_path / "a.tar").container.called(0) == name


# ---- Hugging Face ----------------------------------------------------------------------------------------


def table(**columns):
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    rows = [{"bytes": data, "path": f"{row}.png"} for row, data in enumerate(FILES)]
    features = {"image": {"_type": "Image"}, "label": {"names": ["ant", "bee", "cat"], "_type": "ClassLabel"}}
    about = {b"huggingface": json.dumps({"info": {"features": features}})}
    return pyarrow.table({"image": pyarrow.array(rows, kind), **columns}).replace_schema_metadata(about)


def test_parquet_as_hugging_face_stores_pictures_is_read_with_its_class_names(tmp_path):
    path = tmp_path / "train-00000-of-00001.parquet"
    parquet.write_table(table(label=LABELS), path, row_group_size=6)
    source = check(path)
    assert source.class_names == ["ant", "bee", "cat"]
    assert source.name(4) == f"{path} row 4 (4.png)"
    (tmp_path / "data").mkdir()
    path.rename(tmp_path / "data" / path.name)
    check(tmp_path)


def test_plain_bytes_are_pictures_and_labels_of_minus_one_are_none(tmp_path):
    parquet.write_table(pyarrow.table({"jpeg": FILES, "label": [-1] * COUNT}), tmp_path / "a.parquet")
    check(tmp_path / "a.parquet", None)


def test_a_folder_of_several_splits_and_odd_tables_are_refused(tmp_path):
    for split in ("train", "test"):
        parquet.write_table(table(), tmp_path / f"{split}-00000-of-00001.parquet")
    refused(tmp_path, r"several tables \(test, train\)")
    parquet.write_table(pyarrow.table({"a": FILES, "b": FILES}), tmp_path / "two.parquet")
    refused(tmp_path / "two.parquet", r"several columns of pictures \(a, b\)")
    parquet.write_table(pyarrow.table({"a": [1]}), tmp_path / "none.parquet")
    refused(tmp_path / "none.parquet", "no column of pictures among a")
    parquet.write_table(table(label=["x"] * COUNT), tmp_path / "text.parquet")
    refused(tmp_path / "text.parquet", "row 0: label 'x' is no whole number")
    parquet.write_table(table(label=[True] * COUNT), tmp_path / "truth.parquet")
    refused(tmp_path / "truth.parquet", "row 0: label True is no whole number")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1" + bytes(40) + b"PAR1")
    with pytest.raises(DataError, match="not a Parquet file") as caught:
        open_source(tmp_path / "damaged.parquet")
    assert len(str(caught.value).splitlines()) == 1


def test_files_of_one_split_with_other_columns_are_refused_by_name(tmp_path):
    first, second = (tmp_path / "mixed" / f"train-0000{number}-of-00002.parquet" for number in range(2))
    first.parent.mkdir()
    parquet.write_table(table(label=LABELS), first)
    for odd, sentence in (
        (table(), "has image, where train-00000-of-00002.parquet has image and label"),
        (pyarrow.table({"img": FILES, "label": LABELS}), "has img and label, where"),
        (pyarrow.table({"image": ["a"], "label": [1]}), "no column of pictures among image, label"),
    ):
        parquet.write_table(odd, second)
        refused(first.parent, rf"{second.name} {sentence}|{second.name} has {sentence}")


def test_large_binary_beside_a_path_is_pictures_and_no_list(tmp_path):
    columns = {"image": pyarrow.array(FILES, pyarrow.large_binary()), "path": ["x.png"] * COUNT}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    check(tmp_path / "a.parquet", None)


def test_a_row_without_bytes_names_itself(tmp_path):
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    rows = [
        {"bytes": FILES[0], "path": None},
        {"bytes": None, "path": None},
        {"bytes": b"no", "path": "x.png"},
    ]
    parquet.write_table(pyarrow.table({"image": pyarrow.array(rows, kind)}), tmp_path / "a.parquet")
    source = open_source(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="row 1: neither bytes nor a path"):
        source.read(1, SIZE)
    with pytest.raises(DataError, match=r"row 2 \(x\.png\): not a JPEG"):
        source.read(2, SIZE)


@pytest.mark.filterwarnings("ignore")
def test_folders_that_datasets_saved_are_read_in_their_order(tmp_path):
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "photos"
    for row, (data, label) in enumerate(zip(FILES, LABELS, strict=True)):
        (folder / "abc"[label]).mkdir(parents=True, exist_ok=True)
        (folder / "abc"[label] / f"{row:02d}.png").write_bytes(data)
    made = datasets.Dataset.from_dict(
        {"image": [str(next(folder.rglob(f"{row:02d}.png"))) for row in range(COUNT)], "label": LABELS},
        features=datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee", "cat"])}
        ),
    )
    made.save_to_disk(str(tmp_path / "saved"))
    assert check(tmp_path / "saved").class_names == ["ant", "bee", "cat"]

    order = np.random.default_rng(1).permutation(COUNT)[:9]
    made.select(order).save_to_disk(str(tmp_path / "selected"))
    check(tmp_path / "selected", [LABELS[row] for row in order], [EXPECTED[row] for row in order])

    datasets.DatasetDict({"train": made}).save_to_disk(str(tmp_path / "dict"))
    refused(tmp_path / "dict", "is a set of data sets: name one of them, train")

    made.to_parquet(str(tmp_path / "made.parquet"))
    check(tmp_path / "made.parquet")


def test_jpegs_that_were_compressed_again_are_said_to_be(tmp_path):
    for quality, said in ((75, True), (95, False)):
        files = [encoded(picture, "JPEG", quality=quality) for picture in pictures()]
        parquet.write_table(pyarrow.table({"image": files}), tmp_path / "a.parquet")
        remarks = " ".join(open_source(tmp_path / "a.parquet").remarks)
        assert ("the JPEGs are of quality 75" in remarks) == said
