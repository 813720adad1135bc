import io
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from icgan_runtime.bundle import arrays
from icgan_runtime.errors import BundleError

plain = hnp.arrays(
    st.sampled_from([np.uint8, np.int64, np.float32]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


def npy(array, **options) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **options)
    return stream.getvalue()


@given(plain)
def test_an_array_reads_back_equal_from_memory(array):
    found = arrays.read_npy(npy(array), "x.npy")
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found, array)


def test_an_array_reads_back_equal_from_disk(tmp_path):
    array = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    arrays.write_npy(tmp_path / "x.npy", array.transpose(0, 2, 1))
    np.testing.assert_array_equal(arrays.map_npy(tmp_path / "x.npy", "x"), array.transpose(0, 2, 1))
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), array.transpose(0, 2, 1))


def test_a_file_that_is_no_array_is_not_mapped(tmp_path):
    (tmp_path / "x.npy").write_bytes(npy(np.zeros(3, np.float32))[:-1])
    with pytest.raises(
        BundleError, match=r"^bank/x\.npy: its header promises float32\[3\], the file has 139"
    ):
        arrays.map_npy(tmp_path / "x.npy", "bank/x.npy")


def test_what_is_read_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        arrays.read_npy(npy(np.zeros(3, np.float32)), "x")[0] = 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a .npy file of version 1.0"),
        (b"\x93NUMPY\x01\x00", "not a .npy file"),
        (b"\x93NUMPY\x02\x00" + bytes(90), "not a .npy file of version 1.0"),
        (b"\x93NUMPY\x01\x00\xff\xff" + bytes(90), "not a .npy file"),
        (b"\x93NUMPY\x01\x00\x10\x00" + b"__import__('os')", "does not describe a plain array"),
        (npy(np.zeros(3, "f4"))[:-1], r"promises float32\[3\]"),
        (npy(np.zeros(3, "f4")) + b"x", r"promises float32\[3\]"),
        (npy(np.zeros(3)), "holds '<f8', expected"),
        (npy(np.array(["text"])), "holds '<U4', expected"),
        (npy(np.array([None]), allow_pickle=True), r"holds '\|O', expected"),
        (npy(np.zeros(2, "f4,i4")), "does not describe a plain array"),
        (npy(np.zeros(2, ">i8")), "holds '>i8', expected"),
        (npy(np.zeros((2, 3), "f4").T), "in column order"),
    ],
)
def test_what_is_not_a_plain_array_is_refused(data, message):
    with pytest.raises(BundleError, match=f"x.npy: .*{message}"):
        arrays.read_npy(data, "x.npy")


@given(data=st.data())
def test_bytes_changed_at_random_are_read_or_refused(data):
    changed = bytearray(npy(np.arange(4, dtype=np.float32)))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        arrays.read_npy(bytes(changed), "x.npy")
    except BundleError as error:
        assert "\n" not in str(error)  # noqa: PT017


def npz(**members) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=True, **members)
    return stream.getvalue()


def test_an_npz_reads_back_equal():
    found = arrays.read_npz(npz(a=np.arange(3), b=np.ones((2, 2), np.float32)), "x.npz")
    assert sorted(found) == ["a", "b"]
    np.testing.assert_array_equal(found["b"], np.ones((2, 2)))


@settings(max_examples=40)
@given(st.dictionaries(st.text("abcxyz_09", min_size=1, max_size=8), plain, max_size=5))
def test_any_numeric_arrays_in_an_npz_read_back_equal(members):
    found = arrays.read_npz(npz(**members), "x.npz")
    assert found.keys() == members.keys()
    for name, array in members.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)


def test_an_npz_with_a_pickle_is_refused():
    with pytest.raises(BundleError, match=r"x\.npz: holds .\|O."):
        arrays.read_npz(npz(a=np.array([{}])), "x.npz")


def test_an_npz_that_would_unpack_to_more_than_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr(arrays, "MAX_NPZ_BYTES", 1000)
    with pytest.raises(BundleError, match="1 members of 8128 bytes together are too many"):
        arrays.read_npz(npz(a=np.zeros(1000)), "x.npz")


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_npz_that_unpacks_to_more_than_its_members_say_is_refused_before_it_does(packing):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", packing) as archive:
        archive.writestr("a.npy", bytes(8 << 20))
    data = stream.getvalue().replace((8 << 20).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match=r"^x\.npz: packed in another way than numpy packs a \.npz$"):
            arrays.read_npz(data, "x.npz")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_an_npz_may_hold_as_much_as_the_limits_say(monkeypatch):
    data = npz(a=np.arange(3), b=np.arange(4))  # a header of 128 bytes each
    monkeypatch.setattr(arrays, "MAX_NPZ_BYTES", 2 * 128 + 7 * 8)
    monkeypatch.setattr(arrays, "MAX_NPZ_MEMBERS", 2)
    assert sorted(arrays.read_npz(data, "x.npz")) == ["a", "b"]
    monkeypatch.setattr(arrays, "MAX_NPZ_MEMBERS", 1)
    with pytest.raises(BundleError, match=r"^x\.npz: 2 members of 312 bytes together are too many$"):
        arrays.read_npz(data, "x.npz")


@given(data=st.data())
def test_an_npz_changed_at_random_is_read_or_refused(data):
    changed = bytearray(npz(a=np.arange(4), b=np.ones(3, np.float32)))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        arrays.read_npz(bytes(changed), "x.npz")
    except BundleError as error:
        assert error.file == "x.npz"  # noqa: PT017


def test_require_names_what_it_found_and_what_it_wanted():
    array = np.zeros((2, 3), np.float32)
    assert arrays.require(array, "x", "float32", (None, 3)) is array
    with pytest.raises(BundleError, match=r"x: holds float32\[2, 3\], the manifest says float32\[\*, 4\]"):
        arrays.require(array, "x", "float32", (None, 4))
    with pytest.raises(BundleError, match=r"holds float32\[2, 3\], there says int64\[2, 3\]"):
        arrays.require(array, "x", "int64", (2, 3), "there")
