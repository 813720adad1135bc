"""Memory handed over both ways, with numpy as the other side."""

import gc
import weakref

import numpy as np
import pytest

from icgan_runtime.backends import dlpack
from icgan_runtime.backends.ort import OrtSession
from icgan_runtime.errors import BackendError


class Owner:
    """Something that can be watched as it goes."""


def offer(array: np.ndarray, owner: object = None) -> dlpack.Tensor:
    return dlpack.Tensor(array.ctypes.data, array.shape, array.dtype, (dlpack.CPU, 0), owner)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_numpy_sees_our_memory_and_not_a_copy(dtype):
    array = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    seen = np.from_dlpack(offer(array))
    np.testing.assert_array_equal(seen, array)
    assert seen.dtype == array.dtype
    array[1, 2, 3] = 7
    assert seen[1, 2, 3] == 7


def test_torch_sees_it_too():
    torch = pytest.importorskip("torch")
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    seen = torch.from_dlpack(offer(array))
    seen[0, 1] = 9
    assert array[0, 1] == 9


def test_the_owner_lives_as_long_as_what_was_made_of_its_memory():
    owner = Owner()
    watch = weakref.ref(owner)
    seen = np.from_dlpack(offer(np.zeros(3, np.float32), owner))
    del owner
    gc.collect()
    assert watch() is not None
    del seen
    gc.collect()
    assert watch() is None


def test_a_capsule_that_nobody_takes_lets_its_owner_go():
    owner = Owner()
    watch = weakref.ref(owner)
    offer(np.zeros(3, np.float32), owner).__dlpack__()
    del owner
    gc.collect()
    assert watch() is None


def test_an_array_is_read_where_it_lies():
    array = np.arange(12, dtype=np.int64).reshape(3, 4)[1:]
    view = dlpack.view("noise", array, dlpack.CPU)
    assert (view.address, view.shape, view.dtype) == (array.ctypes.data, (2, 4), np.dtype(np.int64))


def test_what_we_offer_can_be_read_by_ourselves():
    array = np.zeros((2, 5), np.uint8)
    view = dlpack.view("image", offer(array), dlpack.CPU)
    assert (view.address, view.shape, view.dtype) == (array.ctypes.data, (2, 5), np.dtype(np.uint8))


@pytest.mark.parametrize(
    ("array", "device", "message"),
    [
        ([1.0], dlpack.CPU, "noise is a list without __dlpack__"),
        (np.zeros((2, 3)), dlpack.CUDA, "noise lies on device type 1, expected 2"),
        (np.zeros((4, 3))[::2], dlpack.CPU, "noise is not C-contiguous"),
        (np.zeros((4, 3)).T, dlpack.CPU, "noise is not C-contiguous"),
        (np.zeros(3, complex), dlpack.CPU, "noise has a type that numpy does not know"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(array, device, message):
    with pytest.raises(BackendError, match=message):
        dlpack.view("noise", array, device)


def test_onnx_runtime_takes_and_gives_arrays_in_place(labelled_bundle):
    rng = np.random.default_rng(0)
    feeds = {
        "noise": rng.normal(size=(2, 6)).astype(np.float32),
        "embedding": np.eye(2, 12, dtype=np.float32),
        "label": np.array([0, 2]),
    }
    with OrtSession((labelled_bundle / "generator.onnx").read_bytes(), "generator.onnx") as session:
        image = np.from_dlpack(session.run_on_device(feeds)["image"])
        np.testing.assert_array_equal(image, session.run(feeds)["image"])
        with pytest.raises(BackendError, match=r"ort-cpu generator\.onnx: .*contiguous"):
            session.run_on_device({**feeds, "noise": np.zeros((4, 6), np.float32)[::2]})
        with pytest.raises(BackendError, match=r"ort-cpu generator\.onnx"):
            session.run_on_device({"noise": feeds["noise"]})
