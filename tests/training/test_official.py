import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from icgan_export.source.runs import read_run
from icgan_runtime.bundle.manifest import Licence
from icgan_runtime.files import sha256_of_file
from icgan_training.cli import main
from icgan_training.errors import WeightsError
from icgan_training.networks.checkpoint import load_discriminator, load_generator
from icgan_training.networks.encoder import EncoderConfig, bind_encoder, random_encoder, save_encoder
from icgan_training.official import LICENCE, NOTICE, convert, open_experiment
from tests.models.published import Shape, generate, judge, random_discriminator, random_generator

SHAPE = Shape(64, ch=2, attention=32, shared_feat=24)


def settings(shape=SHAPE, **changes):
    """What a published experiment records of itself, as far as anybody reads it."""
    return {
        "model": "BigGAN",
        "resolution": shape.resolution,
        "G_ch": shape.ch,
        "D_ch": shape.ch,
        "G_attn": str(shape.attention),
        "D_attn": str(shape.attention),
        "dim_z": 120,
        "hier": True,
        "shared_dim": 128,
        "shared_dim_feat": shape.shared_feat,
        "instance_cond": shape.embedding is not None,
        "class_cond": shape.classes is not None,
        "n_classes": shape.classes or 1000,
        "feature_extractor": "selfsupervised",
        "which_dataset": "imagenet",
        "experiment_name": "an_experiment",
        "ema": True,
        "use_ema": True,
        "G_activation": nn.ReLU(inplace=False),
        "D_activation": nn.ReLU(inplace=False),
    } | changes


def write_experiment(folder, shape=SHAPE, suffix="_best0", fid=12.5, seed=0, discriminator=False, **changes):
    """A folder as the published code leaves it, with random weights."""
    folder.mkdir(exist_ok=True)
    generator = random_generator(shape, seed)
    torch.save(generator, folder / f"G_ema{suffix}.pth")
    state = {"itr": 1000 + seed, "best_FID": np.float64(fid), "config": settings(shape, **changes)}
    torch.save(state, folder / f"state_dict{suffix}.pth")
    if discriminator:
        wrapped = {f"module.{name}": value for name, value in random_discriminator(shape).items()}
        torch.save(wrapped, folder / f"D{suffix}.pth")
    return folder


@pytest.fixture
def experiment(tmp_path):
    return write_experiment(tmp_path / "whatever it is called")


def conditions(count=2):
    return torch.randn(count, 120), nn.functional.normalize(torch.randn(count, 2048), dim=1)


@torch.no_grad()
def test_a_converted_experiment_generates_the_published_pictures(experiment, tmp_path):
    convert(experiment, tmp_path / "run")
    z, feats = conditions()
    image = load_generator(tmp_path / "run")(z, feats)
    assert (image - generate(random_generator(SHAPE), SHAPE, z, feats)).abs().max() < 1e-5


@torch.no_grad()
def test_a_discriminator_comes_along_without_its_wrapper_prefix(tmp_path):
    shape = Shape(64, ch=2, attention=32, classes=5, shared_feat=24)
    folder = write_experiment(tmp_path / "experiment", shape, discriminator=True)
    convert(folder, tmp_path / "run")
    image, (_, feats), labels = torch.randn(2, 3, 64, 64), conditions(), torch.tensor([4, 0])
    expected = judge(random_discriminator(shape), shape, image, feats, labels)
    assert torch.allclose(load_discriminator(tmp_path / "run")(image, feats, labels), expected, atol=1e-4)


def test_the_run_says_where_it_came_from_and_under_which_licence(experiment, tmp_path):
    convert(experiment, tmp_path / "run")
    described = json.loads((tmp_path / "run" / "config.json").read_text())
    assert described["name"] == "an_experiment"
    assert described["licence"]["weights"] == "CC-BY-NC-4.0"
    assert "not for commercial use" in described["licence"]["notice"]
    assert described["model"]["resolution"] == 64
    assert described["encoder"]["trained_with"] == "SwAV"
    assert described["provenance"]["file_suffix"] == "_best0"
    assert described["provenance"]["recorded_fid"] == 12.5
    assert len(described["provenance"]["files"]["G_ema_best0.pth"]) == 64


@pytest.mark.parametrize(
    ("changes", "encoder"),
    [
        ({"feature_extractor": "selfsupervised"}, "SwAV"),
        ({"feature_extractor": "classification"}, "torchvision"),
        ({"feature_extractor": "classification", "longtail": True}, "classifier-balancing"),
        ({"feature_extractor": "classification", "longtail": False}, "torchvision"),
        ({"feature_extractor": "classification", "which_dataset": "imagenet_lt"}, "classifier-balancing"),
    ],
)
def test_the_encoder_each_experiment_wants_is_recorded(changes, encoder, tmp_path):
    assert open_experiment(write_experiment(tmp_path / "experiment", **changes)).encoder == encoder


def test_the_best_state_with_the_lower_fid_is_taken(tmp_path):
    folder = write_experiment(tmp_path / "experiment", suffix="_best0", fid=12.5)
    write_experiment(folder, suffix="_best1", fid=11.5, seed=1)
    write_experiment(folder, suffix="", fid=5.0, seed=2)
    assert open_experiment(folder).suffix == "_best1"


def test_without_a_best_state_the_latest_is_taken(tmp_path):
    folder = write_experiment(tmp_path / "experiment", suffix="_copy0", seed=3)
    write_experiment(folder, suffix="", seed=2)
    assert open_experiment(folder).suffix == "_copy0"


def test_an_encoder_is_bound_into_the_run(experiment, tmp_path):
    config = EncoderConfig("resnet50", 2048, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    save_encoder(random_encoder(config), tmp_path / "encoder.safetensors")
    convert(experiment, tmp_path / "run", encoder=tmp_path / "encoder.safetensors")
    described = json.loads((tmp_path / "run" / "config.json").read_text())
    assert len(described["encoder"]["sha256"]) == 64
    assert (tmp_path / "run" / "encoder.safetensors").exists()
    model = read_run(tmp_path / "run").model  # what a bundle, its model card and `icgan info` say
    assert model.licence == Licence(LICENCE, NOTICE)


def test_the_torch_file_of_the_encoder_is_as_good_and_has_the_identity_that_prepare_gives_it(
    experiment, tmp_path
):
    config = EncoderConfig("resnet50", 2048, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    torch.save(random_encoder(config).backbone.state_dict(), tmp_path / "swav_800ep_pretrain.pth.tar")
    convert(experiment, tmp_path / "run", encoder=tmp_path / "swav_800ep_pretrain.pth.tar")
    bind_encoder(tmp_path / "swav_800ep_pretrain.pth.tar", tmp_path / "prepared.safetensors")
    described = json.loads((tmp_path / "run" / "config.json").read_text())
    assert described["encoder"]["sha256"] == sha256_of_file(tmp_path / "prepared.safetensors")


def test_what_is_no_encoder_leaves_nothing_behind(experiment, tmp_path):
    (tmp_path / "encoder.pth").write_bytes(b"junk")
    with pytest.raises(WeightsError, match="not a plain torch state dict"):
        convert(experiment, tmp_path / "run", encoder=tmp_path / "encoder.pth")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder.pth", experiment.name]


def test_an_encoder_of_another_width_is_refused(experiment, tmp_path):
    config = EncoderConfig("efficientnet-lite0", 1280, 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    save_encoder(random_encoder(config), tmp_path / "encoder.safetensors")
    with pytest.raises(WeightsError, match="gives 1280 columns; the model takes 2048"):
        convert(experiment, tmp_path / "run", encoder=tmp_path / "encoder.safetensors")
    assert not (tmp_path / "run").exists()


class Payload:
    """Unpickled by an unrestricted reader, this makes a directory."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("file", ["G_ema_best0.pth", "state_dict_best0.pth"])
@pytest.mark.parametrize("save", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))])
def test_code_in_a_file_never_runs(experiment, tmp_path, file, save):
    sign = tmp_path / "it ran"
    save({"config": settings(), "x": Payload(sign)}, experiment / file)
    with pytest.raises(WeightsError, match="could run code"):
        convert(experiment, tmp_path / "run")
    assert not sign.exists()
    assert not (tmp_path / "run").exists()


def test_every_key_out_of_place_is_named(experiment, tmp_path):
    path = experiment / "G_ema_best0.pth"
    state = torch.load(path, weights_only=True)
    state["blocks.9.0.conv1.weight"] = state.pop("blocks.3.0.conv1.bias")
    state["linear.bias"] = state["linear.bias"][:5]
    torch.save(state, path)
    with pytest.raises(WeightsError) as caught:
        convert(experiment, tmp_path / "run")
    message = str(caught.value)
    assert "missing blocks.3.0.conv1.bias" in message
    assert "unexpected blocks.9.0.conv1.weight" in message
    assert "linear.bias is [5], expected [512]" in message


@pytest.mark.parametrize("key", ["linear.sv0", "shared.weight"])
def test_even_the_entries_nobody_reads_must_be_there(experiment, tmp_path, key):
    path = experiment / "G_ema_best0.pth"
    state = torch.load(path, weights_only=True)
    del state[key]
    torch.save(state, path)
    with pytest.raises(WeightsError, match=f"missing {key}"):
        convert(experiment, tmp_path / "run")


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
@pytest.mark.parametrize("file", ["G_ema_best0.pth", "state_dict_best0.pth"])
def test_a_truncated_file_is_refused(experiment, tmp_path, file, keep):
    path = experiment / file
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    with pytest.raises(WeightsError, match=file):
        convert(experiment, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"G_param": "WN"}, "G_param is 'WN'; only 'SN'"),
        ({"model": "BigGANdeep"}, "model is 'BigGANdeep'"),
        ({"D_ch": 3}, "G_ch and D_ch differ"),
        ({"resolution": 1024}, "resolution is 1024"),
        ({"constant_conditioning": True}, "constant_conditioning"),
    ],
)
def test_settings_of_another_architecture_are_named(tmp_path, changes, message):
    folder = write_experiment(tmp_path / "experiment", **changes)
    with pytest.raises(WeightsError, match=message):
        convert(folder, tmp_path / "run")


@pytest.mark.parametrize("missing", [("dim_z",), ("G_ch", "D_ch"), ("G_attn",)])
def test_missing_settings_are_named(tmp_path, missing):
    folder = write_experiment(tmp_path / "experiment")
    incomplete = {name: value for name, value in settings().items() if name not in missing}
    torch.save({"itr": 0, "best_FID": 1.0, "config": incomplete}, folder / "state_dict_best0.pth")
    with pytest.raises(WeightsError, match=missing[0]):
        convert(folder, tmp_path / "run")


def run_convert(capsys, *arguments):
    status = main(["convert", *map(str, arguments)])
    output = capsys.readouterr()
    return status, output.out, output.err


def test_the_command_names_model_licence_and_encoder(experiment, tmp_path, capsys):
    status, out, _ = run_convert(capsys, experiment, "--out", tmp_path / "run")
    assert status == 0
    assert "64 px, instance, weights under CC-BY-NC-4.0" in out
    assert "SwAV" in out


def test_a_snapshot_of_the_other_backbone_runs_nothing_either(tmp_path, capsys):
    (tmp_path / "best-network-snapshot.pkl").write_bytes(pickle.dumps(Payload(tmp_path / "it ran")))
    status, _, err = run_convert(capsys, tmp_path, "--out", tmp_path / "run")
    assert status == 1
    assert "could run code it carries" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "it ran").exists()


def test_a_folder_without_an_experiment_is_one_line_on_stderr(tmp_path, capsys):
    status, _, err = run_convert(capsys, tmp_path, "--out", tmp_path / "run")
    assert status == 1
    assert "expected G_ema_best0.pth beside state_dict_best0.pth" in err
    assert err.count("\n") == 1


def test_an_output_folder_in_use_is_left_alone(experiment, tmp_path):
    keep = tmp_path / "run" / "mine.txt"
    keep.parent.mkdir()
    keep.touch()
    with pytest.raises(WeightsError, match="is in use"):
        convert(experiment, tmp_path / "run")
    assert keep.exists()


def test_an_archive_has_to_be_unpacked_first(tmp_path):
    archive = tmp_path / "icgan_biggan_imagenet_res64.tar.gz"
    archive.touch()
    with pytest.raises(WeightsError, match="unpack the published archive"):
        open_experiment(archive)


def test_an_output_that_cannot_be_written_is_one_clear_error(experiment, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match="cannot be written"):
        convert(experiment, tmp_path / "file" / "run")


def test_a_half_written_run_of_a_killed_command_does_not_disturb_the_next(experiment, tmp_path):
    shutil.copytree(experiment, tmp_path / "run.partial")
    convert(experiment, tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["config.json", "generator.safetensors"]
