"""The training loop as its user meets it: files, resuming, several processes, collapse."""

import dataclasses
import json
import os
import resource
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from icgan_training.data.dataset import PreparedDataset
from icgan_training.errors import CollapseError, ConfigError, DataError
from icgan_training.fit.loop import fit
from icgan_training.fit.resume import list_checkpoints
from icgan_training.networks.checkpoint import load_discriminator, load_generator
from icgan_training.networks.presets import preset
from tests.processes import wait_until

CPU = torch.device("cpu")
TINY = preset("tiny")
TIMES = ("seconds", "images_per_second", "memory_mib")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings(**changes):
    return dataclasses.replace(TINY.train, **changes)


def command(data, run, *extra):
    return [sys.executable, "-m", "icgan_training", "fit", data, "--preset", "tiny", "--out", run, *extra]


def environment(**extra):
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), **extra}


def two_processes(data, run, *extra):
    """The command as torchrun starts it, twice."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            command(data, run, *extra),
            stderr=subprocess.PIPE,
            text=True,
            env=environment(RANK=str(rank), LOCAL_RANK=str(rank), **group),
        )
        for rank in range(2)
    ]


def log(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def without_times(records):
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records]


def assert_equal_files(one, other):
    mine, theirs = load_file(one), load_file(other)
    assert mine.keys() == theirs.keys()
    different = [name for name in mine if not torch.equal(mine[name], theirs[name])]
    assert different == []


def test_a_run_directory_is_complete_and_stands_alone(make_prepared, tmp_path):
    source, run = make_prepared(), tmp_path / "run"
    assert fit(TINY.model, TINY.train, PreparedDataset.open(source), run, device=CPU)
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == [
        "step-000000012.safetensors",
        "step-000000016.safetensors",
    ]
    config = json.loads((run / "config.json").read_text())
    assert config["model"] == TINY.model.to_dict()
    assert config["train"] == TINY.train.to_dict()
    assert config["encoder"]["sha256"] == "a" * 64
    assert (run / "encoder.safetensors").read_bytes() == (source / "encoder.safetensors").read_bytes()
    records = log(run)
    assert [record["images"] for record in records] == [16, 32, 48, 64]
    assert all(record["images_per_second"] > 0 and record["grad_norm_generator"] > 0 for record in records)
    assert sorted(path.name for path in (run / "samples").iterdir()) == [
        "step-000000008.png",
        "step-000000016.png",
    ]
    average = {
        name.removeprefix("average."): tensor
        for name, tensor in load_file(list_checkpoints(run / "checkpoints")[-1]).items()
        if name.startswith("average.")
    }
    exported = load_generator(run).state_dict()
    assert all(torch.equal(exported[name], average[name]) for name in average)
    load_discriminator(run)


def test_the_sample_sheet_has_real_instances_on_the_left(make_prepared, tmp_path):
    data = PreparedDataset.open(make_prepared())
    fit(TINY.model, TINY.train, data, tmp_path / "run", device=CPU)
    with Image.open(tmp_path / "run" / "samples" / "step-000000016.png") as picture:
        sheet = np.asarray(picture)
    assert sheet.shape == (8 * 32, 32 + 4 + 8 * 32, 3)
    for row in sheet[:, :32].reshape(8, 32, 32, 3):
        assert (data.images == row).all(axis=(1, 2, 3)).any()


def test_a_run_that_is_killed_again_and_again_ends_bit_equal_to_one_that_is_not(make_prepared, tmp_path):
    data, whole, killed = make_prepared(), tmp_path / "whole", tmp_path / "killed"
    train, extra = settings(total_images=160), ["--precision", "float32", "--images", "160"]
    fit(TINY.model, train, PreparedDataset.open(data), whole, device=CPU)

    def kill_once(happened):
        process = subprocess.Popen(
            command(data, killed, *extra), env=environment(), stderr=subprocess.DEVNULL
        )
        wait_until(happened, process)
        process.send_signal(signal.SIGKILL)
        process.wait()

    checkpoints = killed / "checkpoints"
    kill_once(lambda: (killed / "config.json").exists())  # before anything was trained
    kill_once(lambda: len(list_checkpoints(checkpoints)) == 2)
    seen = list_checkpoints(checkpoints)[-1]
    kill_once(lambda: list_checkpoints(checkpoints)[-1:] not in ([], [seen]))
    kill_once(lambda: any(checkpoints.glob(".*.safetensors")))  # while one is being written
    fit(TINY.model, train, PreparedDataset.open(data), killed, device=CPU)

    for name in ("generator", "discriminator", "checkpoints/step-000000040"):
        assert_equal_files(whole / f"{name}.safetensors", killed / f"{name}.safetensors")
    assert without_times(log(killed)) == without_times(log(whole))
    assert not list(checkpoints.glob(".*.safetensors"))


def test_interrupting_writes_a_checkpoint_and_the_same_command_goes_on(make_prepared, tmp_path):
    data, whole, stopped = make_prepared(), tmp_path / "whole", tmp_path / "stopped"
    train = settings(total_images=200, tick_images=80)
    fit(TINY.model, train, PreparedDataset.open(data), whole, device=CPU)
    extra = ["--precision", "float32", "--images", "200", "--set", "tick_images=80"]
    process = subprocess.Popen(
        command(data, stopped, *extra), env=environment(), stderr=subprocess.PIPE, text=True
    )
    wait_until((stopped / "log.jsonl").exists, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "the same command goes on" in errors
    assert log(stopped)[-1]["images"] < 200
    fit(TINY.model, train, PreparedDataset.open(data), stopped, device=CPU)
    assert_equal_files(whole / "generator.safetensors", stopped / "generator.safetensors")
    assert without_times(log(stopped)) == without_times(log(whole))


def test_a_second_training_of_a_run_is_refused_while_the_first_goes_on(make_prepared, tmp_path):
    source, run = PreparedDataset.open(make_prepared()), tmp_path / "run"
    again = []

    def meanwhile(generator, labels):
        with pytest.raises(ConfigError, match="is being trained by another process"):
            fit(TINY.model, TINY.train, source, run, device=CPU)
        again.append((run / "config.json").read_bytes())
        return 1.0

    assert fit(TINY.model, TINY.train, source, run, device=CPU, evaluate=meanwhile)
    assert again
    assert again[0] == (run / "config.json").read_bytes()
    assert [record["images"] for record in log(run)] == [16, 32, 48, 64]


def test_a_disk_that_fills_up_during_a_checkpoint_costs_nothing_but_the_steps_since_the_last(
    make_prepared, tmp_path
):
    data, whole, full = make_prepared(), tmp_path / "whole", tmp_path / "full"
    fit(TINY.model, settings(total_images=48), PreparedDataset.open(data), whole, device=CPU)
    fit(TINY.model, settings(total_images=32), PreparedDataset.open(data), full, device=CPU)
    good = list_checkpoints(full / "checkpoints")
    # Refused beyond this size as by a full disk: the weights for export still fit, the checkpoint does not.
    limit = good[-1].stat().st_size - 1000
    more = [sys.executable, "-m", "icgan_training", "fit", "--continue", "--out", full, "--images", "48"]
    done = subprocess.run(
        more,
        env=environment(),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    message = done.stderr.splitlines()[-1]
    assert f"the last good checkpoint is {good[-1]}" in message
    assert "free some space and run the same command again" in message
    assert list_checkpoints(full / "checkpoints") == good
    assert not list((full / "checkpoints").glob(".*.safetensors"))
    fit(TINY.model, settings(total_images=48), PreparedDataset.open(data), full, device=CPU)
    assert_equal_files(whole / "generator.safetensors", full / "generator.safetensors")
    assert without_times(log(full)) == without_times(log(whole))


def test_a_complete_run_can_be_trained_further(make_prepared, tmp_path):
    data = PreparedDataset.open(make_prepared())
    fit(TINY.model, settings(total_images=96), data, tmp_path / "whole", device=CPU)
    for total in (64, 64, 96):  # the second time there is nothing to do
        assert fit(TINY.model, settings(total_images=total), data, tmp_path / "parts", device=CPU)
    assert_equal_files(
        tmp_path / "whole" / "generator.safetensors", tmp_path / "parts" / "generator.safetensors"
    )


def test_a_name_and_a_licence_written_into_the_config_stay_when_the_run_goes_on(make_prepared, tmp_path):
    data, run = PreparedDataset.open(make_prepared()), tmp_path / "run"
    fit(TINY.model, settings(total_images=8), data, run, device=CPU)
    written = {"name": "mine", "version": "2", "licence": {"weights": "MIT", "notice": ""}}
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | written))
    fit(TINY.model, settings(total_images=16), data, run, device=CPU)
    config["train"]["total_images"] = 16
    assert json.loads((run / "config.json").read_text()) == config | written


def test_two_processes_train_as_one_with_the_same_batch(make_prepared, tmp_path):
    data = make_prepared()
    # Adam divides by the gradient's own size; a larger epsilon keeps it from magnifying float noise.
    changes = {"batch_size": 8, "adam_eps": 0.1, "discriminator_steps": 2, "diffaugment": ("color", "cutout")}
    train = settings(total_images=48, **changes)
    fit(TINY.model, train, PreparedDataset.open(data), tmp_path / "one", device=CPU)
    extra = ["--precision", "float32", "--images", "48"]
    for name, value in changes.items():
        extra += ["--set", f"{name}={json.dumps(value)}"]
    group = two_processes(data, tmp_path / "two", *extra)
    for process in group:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    one, two = (load_file(tmp_path / run / "generator.safetensors") for run in ("one", "two"))
    worst = max((one[name] - two[name]).abs().max().item() for name in one)
    assert worst < 1e-5
    for mine, theirs in zip(log(tmp_path / "one"), log(tmp_path / "two"), strict=True):
        assert mine["loss_discriminator"] == pytest.approx(theirs["loss_discriminator"], rel=1e-4)
        assert mine["images"] == theirs["images"]


def test_stopping_one_of_two_processes_stops_both_after_the_same_step(make_prepared, tmp_path):
    data, run = make_prepared(), tmp_path / "run"
    group = two_processes(data, run, "--precision", "float32", "--images", "1M", "--set", "tick_images=80")
    wait_until((run / "log.jsonl").exists, *group)
    group[1].send_signal(signal.SIGTERM)  # only to the one that writes no files
    for process in group:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    (newest,) = list_checkpoints(run / "checkpoints")[-1:]
    images = int(newest.stem.removeprefix("step-")) * TINY.train.batch_size
    assert images >= log(run)[-1]["images"]
    more = settings(total_images=images + 8)
    assert fit(TINY.model, more, PreparedDataset.open(data), run, device=CPU)


def test_accumulated_batches_follow_the_gradient_of_the_whole_batch(make_prepared, tmp_path):
    # Batch statistics differ between the halves of a batch, so only D's first update is the same.
    data = PreparedDataset.open(make_prepared())
    losses = []
    for accumulation in (1, 2):
        run = tmp_path / f"run{accumulation}"
        changes = {"total_images": 8, "batch_size": 8, "tick_images": 8, "accumulation": accumulation}
        fit(TINY.model, settings(**changes), data, run, device=CPU)
        losses.append(log(run)[0]["logit_real"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [({"channels_last": False}, 1e-3), ({"precision": "bfloat16"}, 0.05)],
    ids=["another memory layout", "bfloat16"],
)
def test_layout_and_precision_leave_training_what_it_is(make_prepared, tmp_path, changes, tolerance):
    data = PreparedDataset.open(make_prepared())
    short = {"total_images": 32, "tick_images": 32, "batch_size": 8}
    fit(TINY.model, settings(**short), data, tmp_path / "plain", device=CPU)
    fit(TINY.model, settings(**short, **changes), data, tmp_path / "changed", device=CPU)
    (plain,), (changed,) = log(tmp_path / "plain"), log(tmp_path / "changed")
    for name in ("loss_discriminator", "logit_real", "logit_fake"):
        assert changed[name] == pytest.approx(plain[name], abs=tolerance)


def test_the_best_score_decides_what_is_exported(make_prepared, tmp_path):
    data, run = PreparedDataset.open(make_prepared()), tmp_path / "run"
    scores = iter([30.0, 10.0, 20.0, 15.0])
    fit(TINY.model, settings(ema_decay=0.5), data, run, device=CPU, evaluate=lambda *_: next(scores))
    assert [record["fid"] for record in log(run)] == [30.0, 10.0, 20.0, 15.0]
    best = load_file(run / "checkpoints" / "best.safetensors")
    exported = load_file(run / "generator.safetensors")
    assert all(torch.equal(best[f"average.{name}"], exported[name]) for name in exported)
    newest = load_file(list_checkpoints(run / "checkpoints")[-1])
    assert not torch.equal(newest["average.linear.weight"], exported["linear.weight"])


def test_a_run_that_diverges_stops_and_names_the_last_good_checkpoint(make_prepared, tmp_path):
    data, run = PreparedDataset.open(make_prepared()), tmp_path / "run"
    fit(TINY.model, TINY.train, data, run, device=CPU)
    wild = settings(total_images=128, discriminator_lr=1e30, generator_lr=1e30)
    with pytest.raises(CollapseError, match=r"step 20: \w+ is .*step-000000016.safetensors"):
        fit(TINY.model, wild, data, run, device=CPU)
    assert list_checkpoints(run / "checkpoints")[-1].name == "step-000000016.safetensors"
    tame = settings(total_images=128)
    assert fit(TINY.model, tame, data, run, device=CPU)


def test_a_run_goes_on_only_with_its_own_encoder_data_and_model(make_prepared, tmp_path):
    run = tmp_path / "run"
    fit(TINY.model, TINY.train, PreparedDataset.open(make_prepared()), run, device=CPU)
    other = PreparedDataset.open(make_prepared("other", encoder="b"))
    with pytest.raises(ConfigError, match=r"encoder sha256 'aaa.* not 'bbb"):
        fit(TINY.model, TINY.train, other, run, device=CPU)
    wider = dataclasses.replace(TINY.model, ch=8)
    with pytest.raises(ConfigError, match="model ch 4, not 8"):
        fit(wider, TINY.train, PreparedDataset.open(tmp_path / "data"), run, device=CPU)


def test_a_run_that_has_lost_its_clusters_does_not_go_on_with_others(make_prepared, tmp_path):
    run, data = tmp_path / "run", PreparedDataset.open(make_prepared())
    model = dataclasses.replace(TINY.model, class_count=5, embedding_dim=None)
    fit(model, settings(total_images=16, label_source="clusters"), data, run, device=CPU)
    (run / "centroids.npy").unlink()
    with pytest.raises(DataError, match=r"centroids\.npy is missing"):
        fit(model, settings(total_images=32, label_source="clusters"), data, run, device=CPU)


@pytest.mark.parametrize(
    ("changes", "train"),
    [
        ({"class_count": 4}, {}),
        ({"class_count": 4}, {"long_tail": True}),
        ({"class_count": 4, "embedding_dim": None}, {}),
        ({"class_count": 5, "embedding_dim": None}, {"label_source": "clusters"}),
        ({"class_count": 1, "embedding_dim": None}, {}),
    ],
    ids=["class and instance", "long tail", "class", "cluster", "unconditional"],
)
def test_every_member_of_the_family_trains(make_prepared, tmp_path, changes, train):
    data = PreparedDataset.open(make_prepared(labels=[i % 4 for i in range(40)]))
    model = dataclasses.replace(TINY.model, **changes)
    assert fit(model, settings(total_images=16, **train), data, tmp_path / "run", device=CPU)
    assert load_generator(tmp_path / "run").config == model
    named = json.loads((tmp_path / "run" / "config.json").read_text())["class_names"]
    assert named == (data.meta.class_names if model.class_count == 4 else None)


def test_an_average_from_the_first_step_on_starts_centred_on_the_instances_too(make_prepared, tmp_path):
    model, run = dataclasses.replace(TINY.model, instance_gain=5.0), tmp_path / "run"
    train = settings(total_images=4, ema_start=0, ema_decay=0.999)
    fit(model, train, PreparedDataset.open(make_prepared()), run, device=CPU)
    state = load_file(list_checkpoints(run / "checkpoints")[-1])
    trained, average = (state[f"{network}.shared_feat.bias"] for network in ("generator", "average"))
    assert trained.abs().max() > 0.1
    torch.testing.assert_close(average, trained, atol=1e-3, rtol=0)


def test_a_run_whose_description_is_damaged_is_not_continued(make_prepared, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"model": {')
    with pytest.raises(ConfigError, match=r"config\.json is damaged"):
        fit(TINY.model, TINY.train, PreparedDataset.open(make_prepared()), run, device=CPU)


def test_a_batch_that_cannot_be_shared_out_is_refused(make_prepared, tmp_path):
    from icgan_training.distributed import Processes

    data = PreparedDataset.open(make_prepared())
    with pytest.raises(ConfigError, match="batch_size 4 cannot be split over 3 processes"):
        fit(TINY.model, TINY.train, data, tmp_path / "run", device=CPU, processes=Processes(0, 3))


def test_a_run_with_fewer_neighbours_is_the_run_on_data_prepared_with_fewer(make_prepared, tmp_path):
    wide, narrow = (PreparedDataset.open(make_prepared(f"k{k}", neighbours=k)) for k in (3, 1))
    fit(TINY.model, settings(neighbours=1), wide, tmp_path / "wide", device=CPU)
    fit(TINY.model, settings(), narrow, tmp_path / "narrow", device=CPU)
    one, same = (load_file(tmp_path / name / "generator.safetensors") for name in ("wide", "narrow"))
    assert all(torch.equal(one[name], same[name]) for name in same)
    assert json.loads((tmp_path / "wide" / "config.json").read_text())["data"]["neighbours"] == 1
