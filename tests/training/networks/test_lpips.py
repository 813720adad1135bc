import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ImageFilter

from icgan_training.errors import WeightsError
from icgan_training.networks.lpips import LAYERS, load_lpips, lpips_from_pickle, save_lpips


def published_tree(seed=0):
    """Random weights in the nesting of the published pickle."""
    random = np.random.default_rng(seed)
    tree: dict[str, dict[str, object]] = {"AlexNet_0": {}}
    for index, (i, o, k, *_) in enumerate(LAYERS):
        kernel = random.normal(0, (i * k * k) ** -0.5, (k, k, i, o)).astype(np.float32)
        tree["AlexNet_0"][f"Conv_{index}"] = {"kernel": kernel, "bias": np.zeros(o, np.float32)}
        head = random.uniform(0, 1, (1, 1, o, 1)).astype(np.float32)
        tree[f"NetLinLayer_{index}"] = {"Conv_0": {"kernel": head}}
    return tree


@pytest.fixture(scope="module")
def lpips():
    # The published file was written by numpy 1, which called the module otherwise.
    content = pickle.dumps(published_tree(), protocol=3).replace(
        b"numpy._core.multiarray", b"numpy.core.multiarray"
    )
    return lpips_from_pickle(content)


def as_batch(image):
    return torch.from_numpy(np.asarray(image.resize((64, 64))).copy())[None]


@torch.inference_mode()
def test_equal_pictures_have_distance_zero_and_worse_ones_more(lpips, photo):
    one = as_batch(photo)
    blurred = as_batch(photo.filter(ImageFilter.GaussianBlur(4)))
    assert lpips(one, one).item() == 0
    assert lpips(one, blurred).item() > 0
    torch.testing.assert_close(lpips(one, blurred), lpips(blurred, one))


@torch.inference_mode()
def test_saved_weights_give_the_same_distance(lpips, photo, tmp_path):
    save_lpips(lpips, tmp_path / "lpips.safetensors", source="test", licence="BSD")
    one, other = as_batch(photo), as_batch(photo.rotate(90))
    assert torch.equal(load_lpips(tmp_path / "lpips.safetensors")(one, other), lpips(one, other))


def test_code_in_the_pickle_is_refused_before_it_runs(tmp_path):
    trap = tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return Path.touch, (trap,)

    with pytest.raises(WeightsError, match="is refused"):
        lpips_from_pickle(pickle.dumps({"AlexNet_0": Trap()}))
    assert not trap.exists()


def test_another_file_is_refused(tmp_path):
    (tmp_path / "other.safetensors").write_bytes(b"something else")
    with pytest.raises(WeightsError, match="not an LPIPS weights file"):
        load_lpips(tmp_path / "other.safetensors")
