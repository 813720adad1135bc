import dataclasses
import json

import numpy as np
import pytest
import torch

from icgan_training.checkpoint import save_weights
from icgan_training.cli import main
from icgan_training.dataset import PreparedDataset
from icgan_training.errors import ConfigError, DataError
from icgan_training.evaluate import (
    STRATA,
    Settings,
    Subject,
    draw,
    draw_noise,
    encoder_network,
    evaluate,
    example_grid,
    fid_scorer,
    instance_pool,
    label_grid,
    load_subject,
)
from icgan_training.features import FeatureNetwork
from icgan_training.generator import Generator
from icgan_training.inception import Inception, save_inception
from icgan_training.integrity import file_sha256
from icgan_training.labels import CENTROIDS, training_labels
from icgan_training.metrics import frechet_distance
from icgan_training.presets import preset
from icgan_training.report import score_lines, to_html

TINY = preset("tiny").model
CPU = torch.device("cpu")
FEW = Settings(metrics=("fid", "kid", "prdc"), samples=50, instances=10)


@pytest.fixture
def subject(make_prepared):
    torch.manual_seed(0)
    data = PreparedDataset.open(make_prepared(count=60, resolution=TINY.resolution))
    return Subject(Generator(TINY).eval(), data, None, instance_pool(data, FEW), CPU)


@pytest.fixture
def labelled(make_prepared):
    """A class- and instance-conditioned model whose classes have 40, 17 and 3 pictures; class 3 has none."""
    torch.manual_seed(0)
    labels = [0] * 40 + [1] * 17 + [2] * 3
    data = PreparedDataset.open(
        make_prepared("labelled", count=60, resolution=TINY.resolution, labels=labels)
    )
    generator = Generator(dataclasses.replace(TINY, class_count=4)).eval()
    return Subject(generator, data, data.labels, instance_pool(data, FEW), CPU)


@pytest.fixture
def colours():
    """Mean colours of the four quarters of a picture, in place of the Inception network."""

    def run(pictures):
        return torch.nn.functional.adaptive_avg_pool2d(pictures.permute(0, 3, 1, 2).float(), 2).flatten(1)

    return FeatureNetwork("colours", "0" * 64, run, CPU)


def test_samples_are_a_function_of_the_seed(subject):
    one, same, other = (draw(subject, Settings(samples=20, instances=10, seed=seed)) for seed in (3, 3, 4))
    assert np.array_equal(one.instances, same.instances)
    assert np.array_equal(one.noise, same.noise)
    assert not np.array_equal(one.noise, other.noise)


@pytest.mark.parametrize("choice", ["kmeans", "random"])
def test_as_many_instances_as_asked_are_chosen_once_and_all_of_them_drawn(subject, choice):
    pool = instance_pool(subject.data, Settings(instances=10, choice=choice))
    assert len(set(pool)) == 10
    assert np.array_equal(instance_pool(subject.data, Settings(instances=10, choice=choice)), pool)
    shown = dataclasses.replace(subject, pool=pool)
    assert set(draw(shown, Settings(samples=500)).instances) == set(pool)


def test_the_two_choices_of_instances_differ_and_0_means_all(subject):
    kmeans, random = (
        instance_pool(subject.data, Settings(instances=10, choice=c)) for c in ("kmeans", "random")
    )
    assert not np.array_equal(kmeans, random)
    assert np.array_equal(instance_pool(subject.data, Settings(instances=0)), np.arange(60))


@pytest.mark.parametrize("instances", [0, 10], ids=["all instances", "kmeans instances"])
def test_the_label_is_that_of_a_neighbour_of_the_instance(subject, instances):
    settings = Settings(samples=400, instances=instances)
    pool = instance_pool(subject.data, settings)
    told = dataclasses.replace(subject, labels=np.arange(60), pool=pool)  # a picture's label is its own row
    draws = draw(told, settings)
    assert draws.labels is not None
    assert (subject.data.neighbours[draws.instances] == draws.labels[:, None]).any(axis=1).all()
    for instance in pool:  # and every neighbour is drawn
        shown = set(draws.labels[draws.instances == instance])
        assert instances == 0 or shown == set(subject.data.neighbours[instance])


def test_truncated_noise_stays_inside_its_bound_and_fills_it():
    noise = draw_noise(np.random.default_rng(0), 1000, 20, 0.5)
    assert np.abs(noise).max() <= 1
    assert np.abs(noise).max() > 0.99
    assert abs(noise.mean()) < 0.02


def test_every_score_comes_with_its_settings(subject, colours):
    result = evaluate(subject, subject.data, FEW, colours)
    names = {"fid", "kid", "kid_deviation", "precision", "recall", "density", "coverage"}
    assert result.scores.keys() == names
    assert all(value is not None and np.isfinite(value) for value in result.scores.values())
    assert result.parameters["samples"] == 50
    assert result.parameters["instances"] == 10
    assert result.parameters["reference"] == "data, 60 pictures"
    assert any("of 50 samples" in note for note in result.notes)


def test_a_second_network_is_reported_under_its_name(subject, colours):
    second = FeatureNetwork("other", "1" * 64, colours.run, CPU)
    result = evaluate(subject, subject.data, FEW, colours, second=second)
    assert result.scores["kid_other"] == result.scores["kid"]
    assert "fid_other" not in result.scores


def test_real_pictures_of_another_size_are_refused_before_anything_is_drawn(subject, colours, make_prepared):
    larger = PreparedDataset.open(make_prepared("larger", resolution=64))
    undrawable = dataclasses.replace(subject, pool=np.array([], np.int64))
    with pytest.raises(ConfigError, match=r"larger has 64 px, the generator makes 32 px: .*--resolution 32"):
        evaluate(undrawable, larger, FEW, colours)


def test_more_real_pictures_than_there_are_are_refused_before_anything_is_drawn(subject, colours):
    undrawable = dataclasses.replace(subject, pool=np.array([], np.int64))
    with pytest.raises(ConfigError, match=r"--reference-pictures is 61, .*data has 60"):
        evaluate(undrawable, subject.data, dataclasses.replace(FEW, reference=61), colours)


def test_a_model_is_not_told_the_labels_of_other_classes(make_prepared, tmp_path):
    data = make_prepared("labelled", resolution=TINY.resolution, labels=[i % 3 for i in range(40)])
    generator = Generator(dataclasses.replace(TINY, class_count=4))
    save_weights(generator, tmp_path / "run" / "generator.safetensors")

    def trained_on(*names):
        (tmp_path / "run" / "config.json").write_text(json.dumps({"class_names": names}))
        return load_subject(tmp_path / "run", data, FEW, CPU)

    assert trained_on("class 0", "class 1", "class 2", "class 3", "class 4").labels is not None
    with pytest.raises(ConfigError, match=r"label 1 is 'class 1' in .*labelled and was 'dog' in training"):
        trained_on("class 0", "dog", "class 2", "class 3")


@pytest.fixture
def small_strata(monkeypatch):
    monkeypatch.setattr(
        "icgan_training.evaluate.STRATA", {"many": (30, None), "medium": (10, 29), "few": (1, 9)}
    )


def test_a_baseline_is_told_the_labels_of_the_data_as_often_as_they_occur(make_prepared, tmp_path):
    labels = [0] * 40 + [1] * 17 + [2] * 3
    data = make_prepared("labelled", count=60, resolution=TINY.resolution, labels=labels)
    baseline = Generator(dataclasses.replace(TINY, class_count=4, embedding_dim=None))
    save_weights(baseline, tmp_path / "run" / "generator.safetensors")
    (tmp_path / "run" / "config.json").write_text("{}")
    told = draw(load_subject(tmp_path / "run", data, FEW, CPU), Settings(samples=3000)).labels
    assert told is not None
    assert np.bincount(told) / 3000 == pytest.approx(np.array([40, 17, 3]) / 60, abs=0.03)


def test_fid_by_class_size_compares_samples_with_pictures_of_the_same_classes(
    labelled, colours, small_strata
):
    settings = dataclasses.replace(FEW, metrics=("fid", "strata"), samples=200, instances=0)
    shown = dataclasses.replace(labelled, pool=np.arange(60))
    result = evaluate(shown, labelled.data, settings, colours)
    assert result.scores.keys() == {"fid", "fid_many", "fid_medium", "fid_few"}
    draws = draw(shown, settings)
    pictures = shown.generate(draws, slice(0, 200))
    for name, label in (("many", 0), ("medium", 1), ("few", 2)):
        expected = frechet_distance(
            colours(np.array(labelled.data.images[labelled.data.labels == label])),
            colours(pictures[draws.labels == label]),
        )
        assert result.scores[f"fid_{name}"] == pytest.approx(expected, rel=1e-3)
    assert any(
        note.startswith("few (1 to 9 training pictures): 1 classes") and "3 reference" in note
        for note in result.notes
    )
    assert dict(score_lines(result))["FID ↓ (many)"]


def test_classes_are_grouped_as_published():
    assert STRATA == {"many": (100, None), "medium": (21, 99), "few": (1, 20)}


def test_a_group_without_pictures_has_no_score(labelled, colours):
    result = evaluate(labelled, labelled.data, dataclasses.replace(FEW, metrics=("strata",)), colours)
    assert result.scores["fid_many"] is None
    assert result.scores["fid_medium"] is not None


def test_fid_by_class_size_needs_the_same_classes_on_both_sides(subject, labelled, colours, make_prepared):
    settings = dataclasses.replace(FEW, metrics=("strata",))
    with pytest.raises(ConfigError, match="has no labels"):
        evaluate(subject, subject.data, settings, colours)
    with pytest.raises(ConfigError, match="needs the classes of"):
        evaluate(labelled, subject.data, settings, colours)


def test_inception_score_without_a_class_layer_is_said_to_be_missing(subject, colours):
    result = evaluate(subject, subject.data, Settings(metrics=("is",), samples=10), colours)
    assert result.scores == {"is": None}
    assert "--logits" in result.notes[0]


def test_training_is_scored_by_the_same_fid(subject, colours):
    score = fid_scorer(subject.data, 60, colours)
    settings = Settings(metrics=("fid",), samples=60, instances=0)
    everything = dataclasses.replace(subject, pool=np.arange(60))
    expected = evaluate(everything, subject.data, settings, colours).scores["fid"]
    assert score(subject.generator, None) == expected


def test_the_grid_shows_instances_left_and_samples_right(subject):
    grid = example_grid(subject, FEW)
    size = TINY.resolution
    assert grid.shape[0] == 8 * size
    rows = [grid[row * size : (row + 1) * size, :size] for row in range(8)]
    assert all((subject.data.images == row).all(axis=(1, 2, 3)).any() for row in rows)


def painter(colour):
    """A generator whose every sample shows the colour [n, 3] it makes of (embedding, label)."""

    class Painter(Generator):
        def forward(self, noise, embedding=None, label=None):
            levels = colour(embedding, label) / 127.5 - 1
            return levels[:, :, None, None].expand(-1, -1, TINY.resolution, TINY.resolution)

    return Painter(dataclasses.replace(TINY, class_count=4)).eval()


@pytest.fixture
def reader():
    """An encoder whose embedding is the colour of the first pixel, as a direction."""

    def run(pictures):
        colour = pictures[:, 0, 0].float() / 255 - 0.5
        return torch.nn.functional.normalize(torch.nn.functional.pad(colour, (0, 13)), dim=1)

    return FeatureNetwork("reader", "2" * 64, run, CPU)


@pytest.fixture
def four_corners(labelled, tmp_path):
    """Sixty pictures in four colours, fifteen each; label and embedding are those of the colour."""
    corners = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]])
    labels = np.arange(60) % 4
    embeddings = np.zeros((60, 16), np.float32)
    embeddings[:, :3] = corners[labels] / 255 - 0.5
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    same = labels[:, None] == labels
    np.fill_diagonal(same, False)
    neighbours = np.stack([np.flatnonzero(row)[:10] for row in same]).astype(np.int32)
    meta = dataclasses.replace(labelled.data.meta, neighbours=10)
    data = dataclasses.replace(
        labelled.data, labels=labels, embeddings=embeddings, neighbours=neighbours, meta=meta
    )
    return dataclasses.replace(labelled, data=data, labels=labels, pool=np.arange(60))


def of_embedding(embedding, label):
    return (embedding[:, :3] > 0) * 255.0


def of_label(embedding, label):
    return torch.tensor([[255.0, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]])[label]


def test_a_model_that_paints_its_instance_follows_instances_and_no_labels(four_corners, colours, reader):
    subject = dataclasses.replace(four_corners, generator=painter(of_embedding))
    settings = Settings(metrics=("instance", "labels"), samples=200)
    scores = evaluate(subject, subject.data, settings, colours, encoder=reader).scores
    assert scores["similarity"] == pytest.approx(1, abs=1e-5)
    assert scores["similarity_neighbour"] == pytest.approx(1, abs=1e-5)
    assert scores["similarity_other"] == pytest.approx(0, abs=0.1)
    assert (scores["label_followed"], scores["label_of_instance"], scores["label_of_real"]) == (0, 1, 1)


def test_a_model_that_paints_its_label_follows_labels_and_not_the_instance(four_corners, colours, reader):
    subject = dataclasses.replace(four_corners, generator=painter(of_label))
    result = evaluate(
        subject, subject.data, Settings(metrics=("labels",), samples=200), colours, encoder=reader
    )
    assert (result.scores["label_followed"], result.scores["label_of_instance"]) == (1, 0)
    assert "200 samples" in result.notes[0]
    assert "drawn at random of 4" in result.notes[0]
    assert dict(score_lines(result))["samples of the label they were told ↑"] == "1"


def test_asking_how_a_model_follows_what_it_is_not_told_is_refused(subject, labelled, colours):
    with pytest.raises(ConfigError, match=r"--metrics labels .* does not take both"):
        evaluate(subject, subject.data, Settings(metrics=("labels",)), colours)
    baseline = Generator(dataclasses.replace(TINY, class_count=4, embedding_dim=None)).eval()
    told = dataclasses.replace(labelled, generator=baseline)
    with pytest.raises(ConfigError, match=r"--metrics instance .* does not take instances"):
        evaluate(told, told.data, Settings(metrics=("instance",)), colours)


def test_the_sheet_of_labels_has_instances_left_classes_on_top_and_the_label_of_each_column(four_corners):
    subject = dataclasses.replace(four_corners, generator=painter(of_label))
    sheet, samples = label_grid(subject, FEW), example_grid(subject, FEW)
    assert sheet is not None
    size = TINY.resolution
    first = size + 4
    assert sheet.shape == (first + 8 * size, first + 4 * size, 3)
    assert np.array_equal(sheet[first:, :size], samples[:, :size])
    for column in range(4):
        part = slice(first + column * size, first + (column + 1) * size)
        assert np.array_equal(sheet[:size, part], subject.data.images[column])
        expected = of_label(None, torch.tensor([column])).numpy()[0]
        assert (sheet[first:, part] == expected).all()


def test_a_row_of_the_sheet_of_labels_changes_nothing_but_the_label(labelled):
    same_label = dataclasses.replace(labelled, labels=np.where(np.arange(60) < 40, 0, 1))
    model = same_label.generator
    with torch.no_grad():
        model.shared.weight[1] = model.shared.weight[0]
    sheet, size = label_grid(same_label, FEW), TINY.resolution
    assert sheet is not None
    first = size + 4
    left, right = (sheet[first:, first + part * size : first + (part + 1) * size] for part in (0, 1))
    assert np.array_equal(left, right)


def test_models_without_label_or_without_instance_have_no_sheet_of_labels(subject, labelled):
    assert label_grid(subject, FEW) is None
    baseline = Generator(dataclasses.replace(TINY, class_count=4, embedding_dim=None)).eval()
    assert label_grid(dataclasses.replace(labelled, generator=baseline), FEW) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": ("ppl",)}, "--metrics ppl is unknown; known: fid"),
        ({"metrics": ()}, "--metrics names none; known: fid"),
        ({"samples": 1}, "--samples is 1"),
        ({"instances": -1}, "--instances is -1"),
        ({"reference": -1}, "--reference-pictures is -1"),
        ({"choice": "nearest"}, "--choice is nearest, it must be one of kmeans, random"),
        ({"truncation": 0.0}, r"--truncation is 0\.0"),
        ({"seed": -1}, "--seed is -1, it must not be negative"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Settings(**settings)


@pytest.fixture
def run_dir(subject, tmp_path):
    """A run directory of the untrained generator."""
    folder = tmp_path / "run"
    save_weights(subject.generator, folder / "generator.safetensors")
    config = {"data": {"path": str(subject.data.path)}, "encoder": {"sha256": "a" * 64}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_run_without_encoder_is_shown_no_embeddings_of_another_width(run_dir, make_prepared):
    other = make_prepared("other", count=60, resolution=TINY.resolution, embedding_dim=24)
    (run_dir / "config.json").write_text('{"encoder": {"sha256": null}}')
    with pytest.raises(ConfigError, match=r"takes embeddings of 16 columns, .*other has 24"):
        load_subject(run_dir, other, FEW, CPU)


def test_a_run_finds_its_own_data_set(run_dir, subject):
    assert load_subject(run_dir, None, FEW, CPU).data.meta == subject.data.meta


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"data": 5}', "does not describe a run"),
        (None, "does not exist"),
        ("{}", "names no data set"),
    ],
)
def test_a_run_that_does_not_describe_itself_is_refused(run_dir, text, message):
    (run_dir / "config.json").unlink()
    if text is not None:
        (run_dir / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=f"config.json.* {message}"):
        load_subject(run_dir, None, FEW, CPU)


def test_a_data_set_of_another_encoder_is_refused(run_dir, make_prepared):
    other = make_prepared("other", resolution=TINY.resolution, encoder="b")
    with pytest.raises(
        ConfigError, match=r"trained with encoder aaaaaaaaaaaa, .* prepared with bbbbbbbbbbbb"
    ):
        load_subject(run_dir, other, FEW, CPU)


@pytest.fixture
def cluster_run(make_prepared, tmp_path):
    """A run directory of an untrained model that is told clusters."""
    data = PreparedDataset.open(make_prepared(resolution=TINY.resolution))
    model = dataclasses.replace(TINY, class_count=5, embedding_dim=None)
    folder = tmp_path / "run"
    training_labels(model, data, folder, source="clusters")
    save_weights(Generator(model), folder / "generator.safetensors")
    config = {
        "data": {"path": str(data.path)},
        "encoder": {"sha256": "a" * 64},
        "train": {"label_source": "clusters"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_clusters_are_not_looked_for_among_the_embeddings_of_another_encoder(cluster_run, make_prepared):
    assert load_subject(cluster_run, None, FEW, CPU).labels is not None
    other = make_prepared("other", resolution=TINY.resolution, encoder="b")
    with pytest.raises(ConfigError, match=r"trained with encoder aaaaaaaaaaaa"):
        load_subject(cluster_run, other, FEW, CPU)


def test_a_run_without_its_clusters_is_not_scored_with_others(cluster_run):
    (cluster_run / CENTROIDS).unlink()
    with pytest.raises(DataError, match=r"centroids.npy is missing"):
        load_subject(cluster_run, None, FEW, CPU)


def test_a_data_set_of_another_resolution_is_refused(run_dir, make_prepared):
    with pytest.raises(ConfigError, match=f"makes {TINY.resolution} px"):
        load_subject(run_dir, make_prepared("other", resolution=8), FEW, CPU)


def test_the_conditioning_encoder_may_not_judge(subject, encoder_file):
    identity = subject.data.meta.encoder
    assert encoder_network(encoder_file, CPU, identity).name == "efficientnet-lite0"
    own = type(identity)("efficientnet-lite0", "c" * 64, 32, 1280)
    with pytest.raises(ConfigError, match="choose another"):
        encoder_network(encoder_file, CPU, own)


def test_the_command_writes_json_and_a_page(run_dir, tmp_path, capsys):
    torch.manual_seed(0)
    save_inception(Inception(), tmp_path / "inception.safetensors", source="untrained", licence="none")
    arguments = ["evaluate", str(run_dir), "--metrics", "kid", "--samples", "4", "--reference-pictures", "4"]
    arguments += ["--instances", "5", "--choice", "random"]
    assert main([*arguments, "--inception", str(tmp_path / "inception.safetensors")]) == 0
    assert "KID" in capsys.readouterr().out
    result = json.loads((run_dir / "evaluation.json").read_text())
    assert result["parameters"]["samples"] == 4
    assert file_sha256(run_dir / "generator.safetensors").startswith(result["parameters"]["generator"])
    assert (result["parameters"]["instances"], result["parameters"]["choice"]) == (5, "random")
    assert "data:image/png;base64," in (run_dir / "evaluation.html").read_text()
    assert (run_dir / "samples.png").exists()
    assert not (run_dir / "labels.png").exists()


def test_weights_that_no_metric_asks_for_are_not_fetched(run_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("ICGAN_CACHE", str(tmp_path / "nothing"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # nothing could be
    assert main(["evaluate", str(run_dir), "--metrics", "is", "--samples", "4"]) == 0
    result = json.loads((run_dir / "evaluation.json").read_text())
    assert result["scores"] == {"is": None}
    assert result["parameters"]["feature_networks"] == []


def test_a_metric_of_features_without_its_network_is_a_bug(subject):
    with pytest.raises(ValueError, match="no Inception network given for fid, kid, prdc"):
        evaluate(subject, subject.data, FEW, None)


def test_the_page_escapes_what_it_shows(subject, colours):
    result = evaluate(subject, subject.data, FEW, colours)
    page = to_html(result, "<script>", {"samples": np.zeros((4, 4, 3), np.uint8)})
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_deviations_stand_beside_their_score(subject, colours):
    second = FeatureNetwork("other", "1" * 64, colours.run, CPU)
    lines = dict(score_lines(evaluate(subject, subject.data, FEW, colours, second=second)))
    assert "±" in lines["KID ↓"]
    assert "±" in lines["KID ↓ (other)"]
    assert "FID ↓" in lines
