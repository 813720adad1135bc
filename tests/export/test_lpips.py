import numpy as np
import onnxruntime
import pytest
import torch

from icgan_export.cli import main
from icgan_training.networks.lpips import Lpips, load_lpips, save_lpips


def weights(path, least):
    """A file of random weights, those of the channels from `least` to 1."""
    torch.manual_seed(0)
    network = Lpips()
    for each in network.weights:
        torch.nn.init.uniform_(each, least, 1)
    save_lpips(network, path, source="none", licence="none")
    return path


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lpips")
    file = weights(folder / "weights.safetensors", 0)
    assert main(["lpips", str(file), "--out", str(folder / "app" / "lpips.onnx")]) == 0
    session = onnxruntime.InferenceSession(folder / "app" / "lpips.onnx", providers=["CPUExecutionProvider"])
    return session, load_lpips(file)


@pytest.mark.parametrize("shape", [(1, 32, 32, 3), (3, 64, 64, 3), (2, 70, 41, 3)])
def test_the_squared_distance_of_features_is_lpips(graph, shape):
    session, network = graph
    one, other = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    far = np.square(np.subtract(*(session.run(None, {"image": each})[0] for each in (one, other)))).sum(
        axis=1
    )
    with torch.no_grad():
        expected = network(torch.from_numpy(one), torch.from_numpy(other)).numpy()
    np.testing.assert_allclose(far, expected, rtol=1e-4)


def test_weights_that_make_no_distance_and_other_files_are_refused(tmp_path, capsys):
    out = tmp_path / "lpips.onnx"
    file = weights(tmp_path / "negative.safetensors", -1)
    assert main(["lpips", str(file), "--out", str(out)]) == 1
    assert "negative channel weights" in capsys.readouterr().err
    (tmp_path / "other.safetensors").write_bytes(b"none")
    assert main(["lpips", str(tmp_path / "other.safetensors"), "--out", str(out)]) == 1
    assert "is not an LPIPS weights file" in capsys.readouterr().err
    assert not out.exists()
