import json
import os

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from icgan_training.data.sources import SourceNote, open_source
from icgan_training.errors import DataError
from tests.training.pictures import write_pictures


def test_a_folder_of_pictures_has_no_labels(photo, tmp_path):
    write_pictures(tmp_path / "mine", photo, 3)
    (tmp_path / "mine" / "notes.txt").write_text("not a picture")
    source = open_source(tmp_path / "mine")
    assert len(source) == 3
    assert source.labels is None
    assert source.note.name == "mine"
    assert source.read(0, 16).shape == (16, 16, 3)


def test_sub_folders_are_classes_in_name_order(photo, tmp_path):
    write_pictures(tmp_path / "b", photo, 2)
    write_pictures(tmp_path / "a" / "deeper", photo, 1)
    source = open_source(tmp_path)
    assert source.class_names == ["a", "b"]
    assert source.labels.tolist() == [0, 1, 1]


def test_classes_can_be_ignored(photo, tmp_path):
    write_pictures(tmp_path / "a", photo, 1)
    write_pictures(tmp_path / "b", photo, 1)
    source = open_source(tmp_path, use_labels=False)
    assert len(source) == 2
    assert source.labels is None
    assert source.class_names is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"name": "Äpfel"}'.encode("latin-1"), "cannot be read: 'utf-8' codec"),
        (b'{"name": 7}', "name is 7, expected text"),
        (b'{"name": "mine", "licence": ["MIT"]}', "licence is .* expected text"),
        (b'{"name": "mine", "class_names": ["a", 7]}', "class_names is .* expected a list of names"),
        (b'{"name": "mine", "class_names": {"a": 0}}', "class_names is .* expected a list of names"),
    ],
)
def test_a_note_that_cannot_travel_with_the_data_is_refused_before_any_work(
    content, message, photo, tmp_path
):
    write_pictures(tmp_path, photo, 2)
    (tmp_path / "source.json").write_bytes(content)
    with pytest.raises(DataError, match=rf"source\.json:? {message}"):
        open_source(tmp_path)


def test_a_note_may_begin_with_a_byte_order_mark(photo, tmp_path):
    write_pictures(tmp_path, photo, 2)
    (tmp_path / "source.json").write_text('{"name": "Äpfel"}', encoding="utf-8-sig")
    assert open_source(tmp_path).note.name == "Äpfel"


def test_a_folder_may_be_called_by_any_bytes(photo, tmp_path):
    folder = tmp_path / os.fsdecode(b"bilder\xff")
    write_pictures(folder, photo, 2)
    (folder / "list.csv").write_text("path\n000.png\n")
    table = (folder / "list.csv").rename(folder / os.fsdecode(b"list\xff.csv"))
    for note in (open_source(folder).note, open_source(table).note):
        assert note.name.endswith("\ufffd")
        note.name.encode()
        note.source.encode()


def test_folders_with_an_underscore_and_names_with_a_dot_are_skipped(photo, tmp_path):
    write_pictures(tmp_path / "a", photo, 2)[0].rename(tmp_path / "a" / ".000.png")
    write_pictures(tmp_path / "_heldout", photo, 2)
    write_pictures(tmp_path / ".cache", photo, 2)
    assert open_source(tmp_path).files == ["a/001.png"]


def test_photos_that_a_camera_names_with_an_underscore_are_read(photo, tmp_path):
    (picture,) = write_pictures(tmp_path / "a", photo, 1)
    picture.rename(tmp_path / "a" / "_MG_1234.png")
    assert open_source(tmp_path).files == ["a/_MG_1234.png"]


def test_a_csv_list_gives_paths_and_named_labels(photo, tmp_path):
    write_pictures(tmp_path / "pictures", photo, 3)
    table = tmp_path / "list.csv"
    table.write_text("path,label\npictures/000.png,pear\npictures/001.png,apple\npictures/002.png,pear\n")
    source = open_source(table)
    assert source.class_names == ["apple", "pear"]
    assert source.labels.tolist() == [1, 0, 1]
    assert source.read(2, 8).shape == (8, 8, 3)


def test_a_csv_list_without_labels_is_fine(photo, tmp_path):
    write_pictures(tmp_path, photo, 1)
    (tmp_path / "list.csv").write_text("path\n000.png\n")
    assert open_source(tmp_path / "list.csv").labels is None


def test_a_parquet_list_gives_integer_labels(photo, tmp_path):
    write_pictures(tmp_path, photo, 2)
    table = pyarrow.table({"path": ["000.png", "001.png"], "label": [2, 0]})
    parquet.write_table(table, tmp_path / "list.parquet")
    source = open_source(tmp_path / "list.parquet")
    assert source.labels.tolist() == [2, 0]
    assert source.class_names == ["0", "1", "2"]


def test_arrays_are_a_source_with_their_note(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((2, 8, 8, 3), np.uint8))
    np.save(tmp_path / "labels.npy", np.array([1, 0]))
    SourceNote("tiny", "made here", "CC0", ["cat", "dog"]).write(tmp_path)
    source = open_source(tmp_path)
    assert source.class_names == ["cat", "dog"]
    assert (source.note.name, source.note.licence) == ("tiny", "CC0")
    assert source.name(1) == "row 1"


def refused(path, message):
    with pytest.raises(DataError, match=message):
        open_source(path)


def test_an_empty_folder_is_refused(tmp_path):
    refused(tmp_path, "holds no pictures")


def test_a_path_that_does_not_exist_is_refused(tmp_path):
    refused(tmp_path / "nowhere", "nowhere does not exist")


def test_a_picture_is_no_set_of_pictures(photo, tmp_path):
    photo.save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "neither a folder nor a .csv or .parquet list")


def test_the_ending_of_a_list_may_be_in_capitals(tmp_path):
    (tmp_path / "LIST.CSV").write_text("path\na.png\nb.png\n")
    assert open_source(tmp_path / "LIST.CSV").files == ["a.png", "b.png"]


def test_an_empty_list_is_refused(tmp_path):
    (tmp_path / "list.csv").write_text("path\n")
    refused(tmp_path / "list.csv", "list.csv holds no pictures$")


def test_a_list_without_a_path_column_is_refused(tmp_path):
    (tmp_path / "list.csv").write_text("file,label\na.png,1\n")
    refused(tmp_path / "list.csv", "columns file, label; a column `path` is needed")


def test_a_list_with_a_missing_label_is_refused_by_line(tmp_path):
    (tmp_path / "list.csv").write_text("path,label\na.png,1\nb.png,\n")
    refused(tmp_path / "list.csv", "line 3: no label")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": ["000.png", None]}, "row 1: no path"),
        ({"path": [0, 1]}, "row 0: no path"),
        ({"path": ["000.png", "001.png"], "label": ["pear", None]}, "row 1: no label"),
        ({"path": ["000.png", "001.png"], "label": [1.0, None]}, "row 0: label 1.0 is neither"),
        (
            {"path": ["000.png", "001.png"], "label": [0, 2**62]},
            f"row 1: label {2**62}, but classes count from 0",
        ),
    ],
)
def test_a_parquet_list_with_holes_or_odd_labels_is_refused_by_row(columns, message, tmp_path):
    parquet.write_table(pyarrow.table(columns), tmp_path / "list.parquet")
    refused(tmp_path / "list.parquet", message)


def test_a_list_saved_by_a_spreadsheet_is_read(photo, tmp_path):
    write_pictures(tmp_path, photo, 2)
    (tmp_path / "list.csv").write_bytes("\ufeffpath,label\r\n000.png,1\r\n001.png,0\r\n".encode())
    assert open_source(tmp_path / "list.csv").labels.tolist() == [1, 0]


def test_a_list_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "list.csv").write_bytes("path\nbläuling.png\n".encode("latin-1"))
    refused(tmp_path / "list.csv", "not a table in UTF-8")


def test_labels_that_look_like_numbers_but_are_not_stay_names(photo, tmp_path):
    write_pictures(tmp_path, photo, 2)
    (tmp_path / "list.csv").write_text("path,label\n000.png,--5\n001.png,²\n", encoding="utf-8")
    assert open_source(tmp_path / "list.csv").class_names == ["--5", "²"]


def test_a_negative_label_is_refused(tmp_path):
    (tmp_path / "list.csv").write_text("path,label\na.png,1\nb.png,-1\n")
    refused(tmp_path / "list.csv", "label -1 is negative")


def test_a_label_beyond_the_class_names_is_refused(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((2, 8, 8, 3), np.uint8))
    np.save(tmp_path / "labels.npy", np.array([0, 2]))
    SourceNote("tiny", class_names=["cat", "dog"]).write(tmp_path)
    refused(tmp_path, "row 1: label 2 is outside the 2 classes")


def test_labels_that_are_not_whole_numbers_are_refused(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((2, 8, 8, 3), np.uint8))
    np.save(tmp_path / "labels.npy", np.array([0.5, 1.0]))
    refused(tmp_path, r"labels\.npy is float64 \[2\], expected integers")


def test_arrays_of_another_kind_are_refused(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((2, 3, 8, 8), np.float32))
    refused(tmp_path, r"float32 \[2, 3, 8, 8\], expected uint8")


def test_arrays_that_hide_a_pickle_are_refused(tmp_path):
    np.save(tmp_path / "images.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused(tmp_path, "not a plain array")


def test_a_broken_note_is_named(photo, tmp_path):
    write_pictures(tmp_path, photo, 1)
    (tmp_path / "source.json").write_text(json.dumps({"title": "x"}))
    refused(tmp_path, r"source\.json cannot be read")


def test_pictures_are_read_whatever_phones_and_cameras_call_them(photo, tmp_path):
    (picture,) = write_pictures(tmp_path, photo, 1)
    for ending in (".jfif", ".jpe", ".JPG", ".HEIC", ".heif", ".avif", ".ppm"):
        (tmp_path / f"x{ending}").write_bytes(picture.read_bytes())
    source = open_source(tmp_path)
    assert len(source) == 8
    assert source.remarks == []


def test_what_is_not_looked_at_is_counted_and_named(photo, tmp_path):
    write_pictures(tmp_path / "a", photo, 2)
    for name in (
        "a/1.jxl",
        "a/2.JXL",
        "notes.txt",
        "a/sidecar",
        "a/README",
        "a/LICENSE.txt",
        "a/.hidden",
        "source.json",
    ):
        (tmp_path / name).write_text("{}" if "source" in name else "x")
    (tmp_path / "source.json").write_text('{"name": "mine"}')
    (remark,) = open_source(tmp_path).remarks
    assert remark == (
        f"{tmp_path}: not looked at, because no ending of pictures: 2 of .jxl, 1 of no ending, 1 of .txt"
    )


def test_a_folder_whose_files_have_other_endings_says_so(tmp_path):
    (tmp_path / "a.cr3").write_text("x")
    refused(tmp_path, r"holds no pictures .*not looked at, because no ending of pictures: 1 of \.cr3")


def test_a_stray_picture_beside_class_folders_does_not_drop_the_classes_in_silence(photo, tmp_path):
    write_pictures(tmp_path / "a", photo, 2)
    write_pictures(tmp_path / "b", photo, 2)
    photo.save(tmp_path / "cover.jpg")
    refused(tmp_path, r"has 1 pictures \(cover\.jpg, \.\.\.\) beside 2 folders .* with --no-labels")
    assert len(open_source(tmp_path, use_labels=False)) == 5


@pytest.mark.parametrize("target", [".", "..", "a", "current"])
def test_a_link_into_the_folder_is_named_and_each_picture_is_read_once(photo, tmp_path, target):
    root = tmp_path / "root"
    write_pictures(root / "a", photo, 2)
    write_pictures(root / "b", photo, 2)
    (root / "current").symlink_to(target)
    source = open_source(root)
    assert source.files == ["a/000.png", "a/001.png", "b/000.png", "b/001.png"]
    assert source.class_names == ["a", "b"]
    if target != "current":
        assert source.remarks == [f"{root}: links to folders that are read where they lie: current"]


def test_a_link_to_a_folder_elsewhere_is_followed_once(photo, tmp_path):
    write_pictures(tmp_path / "elsewhere", photo, 2)
    root = tmp_path / "root"
    root.mkdir()
    for name in ("a", "b"):
        (root / name).symlink_to(tmp_path / "elsewhere")
    source = open_source(root)
    assert source.files == ["a/000.png", "a/001.png"]
    assert source.remarks == [f"{root}: links to folders that are read where they lie: b"]
