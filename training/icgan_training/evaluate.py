"""Score a trained generator: draw samples by the published protocol and compare their features with real.

Protocol (IC-GAN, section 4.1): instances are the real pictures nearest to 1,000 k-means centroids of the
embeddings, drawn uniformly; the label of a class-conditional model is that of a random neighbour of the
instance; noise is normal; 50,000 samples. Every setting is printed beside the scores, because a score
without them means nothing.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from icgan_training.checkpoint import load_generator
from icgan_training.config import LabelSource, ModelConfig
from icgan_training.dataset import EncoderIdentity, PreparedDataset, chunks
from icgan_training.encoder import fold_batch_norm, load_encoder
from icgan_training.errors import ConfigError
from icgan_training.features import FeatureNetwork, picture_order, real_features
from icgan_training.generator import Generator
from icgan_training.grid import sample_grid, tiled
from icgan_training.inception import Inception, load_inception
from icgan_training.integrity import file_sha256
from icgan_training.labels import check_classes, training_labels
from icgan_training.lpips import Lpips
from icgan_training.metrics import (
    Features,
    InstanceFollowing,
    LabelFollowing,
    coverage,
    frechet_distance,
    inception_score,
    instance_similarity,
    kernel_distance,
    share_of_class,
)
from icgan_training.neighbours import kmeans_instances, nearest_rows, random_instances
from icgan_training.progress import Progress
from icgan_training.run import read_config

Scores = dict[str, float | None]  # None: could not be computed; a note says why

METRICS = ("fid", "kid", "prdc", "is", "lpips", "strata", "instance", "labels")
OF_FEATURES = frozenset({"fid", "kid", "prdc", "strata"})
"""Those that compare features of samples and real pictures, by Inception and perhaps a second network."""
Choice = Literal["kmeans", "random"]
STRATA = {"many": (100, None), "medium": (21, 99), "few": (1, 20)}
"""Classes by their number of training pictures, as the published long-tail evaluation groups them."""
PUBLISHED_SAMPLES = 50_000
BATCH = 64
LPIPS_INSTANCES = 100
LPIPS_SAMPLES = 8
FOLLOWING_SAMPLES = 1000
"""How many samples `instance` and `labels` look at, at most."""
LABEL_VOTERS = 10
"""Real pictures that vote on the class of a sample."""
GRID_ROWS, GRID_COLUMNS = 8, 8
GRID_LABELS = 16
"""Columns of the sheet of labels, at most."""


@dataclass(frozen=True)
class Settings:
    """How samples are drawn and compared."""

    metrics: tuple[str, ...] = ("fid", "kid", "prdc", "lpips")
    samples: int = PUBLISHED_SAMPLES
    instances: int = 1000  # 0: every picture of the data set
    choice: Choice = "kmeans"  # nearest to k-means centroids, or at random (the paper's ablation)
    reference: int = 0  # real pictures compared with; 0: all of the reference set
    prdc_pictures: int = 10_000  # of each kind at most; the scores depend on it
    prdc_k: int = 5
    truncation: float | None = None  # noise within ±2t; None: normal
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ConfigError(f"--metrics names none; known: {', '.join(METRICS)}")
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown:
            raise ConfigError(f"--metrics {unknown[0]} is unknown; known: {', '.join(METRICS)}")
        if self.instances < 0:
            raise ConfigError(f"--instances is {self.instances}, it must be 0 (all) or more")
        if self.choice not in get_args(Choice):
            raise ConfigError(f"--choice is {self.choice}, it must be one of {', '.join(get_args(Choice))}")
        if self.samples < 2:
            raise ConfigError(f"--samples is {self.samples}, it must be at least 2")
        if self.reference < 0:
            raise ConfigError(f"--reference-pictures is {self.reference}, it must be 0 (all) or more")
        if self.seed < 0:
            raise ConfigError(f"--seed is {self.seed}, it must not be negative")
        if self.truncation is not None and not 0 < self.truncation <= 1:
            raise ConfigError(f"--truncation is {self.truncation}, it must be in (0, 1]")


@dataclass(frozen=True)
class Draws:
    """Inputs of n samples: rows of the data set as instances, labels, noise."""

    instances: NDArray[np.int64]  # [n]
    labelled: NDArray[np.int64]  # [n], rows whose label the model is told: one neighbour of each instance
    labels: NDArray[np.int64] | None  # [n], None for a model without
    noise: NDArray[np.float32]  # [n, dim_z]


@dataclass(frozen=True)
class Evaluation:
    """Scores, and everything they depend on."""

    scores: Scores
    parameters: dict[str, Any]
    notes: list[str]

    def to_json(self) -> str:
        """The text of evaluation.json."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a generator, the data it was trained on, what it was told, what it is shown."""

    generator: Generator  # in eval mode, on `device`
    data: PreparedDataset
    labels: NDArray[np.int64] | None  # [N], None for a model without
    pool: NDArray[np.int64]  # rows that serve as instances
    device: torch.device

    @torch.inference_mode()
    def generate(self, draws: Draws, rows: slice) -> NDArray[np.uint8]:
        """Samples of some rows of the draws, uint8 [n, R, R, 3]."""
        noise = torch.from_numpy(draws.noise[rows]).to(self.device)
        embedding = label = None
        if self.generator.config.takes_embedding:
            embedding = torch.from_numpy(self.data.embeddings[draws.instances[rows]]).to(self.device)
        if draws.labels is not None:
            label = torch.from_numpy(draws.labels[rows]).to(self.device)
        image = self.generator(noise, embedding, label).float()
        levels = ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return np.asarray(levels.permute(0, 2, 3, 1).cpu())

    def samples(self, draws: Draws) -> NDArray[np.uint8]:
        """Samples of all rows of the draws, in batches: uint8 [N, R, R, 3]."""
        return np.concatenate([self.generate(draws, rows) for rows in chunks(len(draws.instances), BATCH)])


def load_subject(run_dir: Path, data_path: Path | None, settings: Settings, device: torch.device) -> Subject:
    """The generator of a run directory and its data set, checked to belong together, and its instances.

    data_path: where the prepared data set is; None takes what the run's config.json says.
    """
    generator = load_generator(run_dir).to(device)
    config = read_config(run_dir)
    recorded = config.get("data", {}).get("path")
    if data_path is None and recorded is None:
        raise ConfigError(f"{run_dir / 'config.json'} names no data set: give one with --data")
    data = PreparedDataset.open(data_path or recorded)
    data.verify()
    train = config.get("train", {})  # a converted checkpoint has none
    source: LabelSource = train.get("label_source", "dataset")
    check_fit(generator.config, data, config.get("encoder", {}).get("sha256"), source)
    check_classes(data, config.get("class_names") if generator.config.takes_label else None)
    if train.get("neighbours") is not None:  # data to transfer to may have fewer
        data = data.nearest(min(train["neighbours"], data.meta.neighbours))
    labels = training_labels(
        generator.config,
        data,
        run_dir,
        source=source,
        begun=True,
    )
    # A baseline is shown no instances; the whole set gives it labels as often as they are in the data.
    rows = instance_pool(data, settings) if generator.config.takes_embedding else np.arange(data.meta.count)
    return Subject(generator, data, labels, rows, device)


def check_fit(
    model: ModelConfig, data: PreparedDataset, encoder_sha256: str | None, source: LabelSource = "dataset"
) -> None:
    """Raise `ConfigError` unless the generator can be conditioned on this data set.

    source: of the labels; clusters lie among the embeddings of the run's encoder, as instances do.
    """
    if model.resolution != data.meta.resolution:
        raise ConfigError(
            f"the generator makes {model.resolution} px, {data.path} has {data.meta.resolution} px"
        )
    if model.takes_embedding and model.embedding_dim != data.meta.embedding_dim:  # of a run without encoder
        raise ConfigError(
            f"the generator takes embeddings of {model.embedding_dim} columns, {data.path} has "
            f"{data.meta.embedding_dim}: prepare it with the encoder that the generator was trained with"
        )
    embedded = model.takes_embedding or (model.takes_label and source == "clusters")
    if embedded and encoder_sha256 not in (None, data.meta.encoder.sha256):
        raise ConfigError(
            f"the generator was trained with encoder {str(encoder_sha256)[:12]}, {data.path} was prepared "
            f"with {data.meta.encoder.sha256[:12]}: prepare it with the encoder of the run"
        )


def instance_pool(data: PreparedDataset, settings: Settings) -> NDArray[np.int64]:
    """Rows that may serve as instances, ascending."""
    if settings.instances == 0 or settings.instances >= data.meta.count:
        return np.arange(data.meta.count)
    if settings.choice == "random":
        return random_instances(data.meta.count, settings.instances, settings.seed)
    return kmeans_instances(data.embeddings, settings.instances, settings.seed)


def draw(subject: Subject, settings: Settings) -> Draws:
    """The inputs of `settings.samples` samples; the same for the same seed."""
    rng = np.random.default_rng(settings.seed)
    data, instances = subject.data, rng.choice(subject.pool, settings.samples)
    columns = rng.integers(data.meta.neighbours, size=settings.samples)
    # a baseline knows no neighbourhoods: its labels are those of the pool
    takes_instance = subject.generator.config.takes_embedding
    labelled = data.neighbours[instances, columns].astype(np.int64) if takes_instance else instances
    return Draws(
        instances=instances,
        labelled=labelled,
        labels=None if subject.labels is None else subject.labels[labelled],
        noise=draw_noise(rng, settings.samples, subject.generator.config.dim_z, settings.truncation),
    )


def draw_noise(
    rng: np.random.Generator, count: int, dim: int, truncation: float | None
) -> NDArray[np.float32]:
    """Normal noise [count, dim]; with truncation t, normal noise given that it lies within ±2t."""
    if truncation is None:
        return rng.standard_normal((count, dim), dtype=np.float32)
    bound = math.erf(2 * truncation / math.sqrt(2))
    uniform = torch.from_numpy(rng.uniform(-bound, bound, (count, dim)))
    return (math.sqrt(2) * torch.erfinv(uniform)).float().numpy()


def evaluate(
    subject: Subject,
    reference: PreparedDataset,
    settings: Settings,
    inception: FeatureNetwork | None,
    *,
    second: FeatureNetwork | None = None,
    logits: Inception | None = None,
    lpips: Lpips | None = None,
    encoder: FeatureNetwork | None = None,
) -> Evaluation:
    """All the scores `settings.metrics` names.

    inception: the network of the metrics `OF_FEATURES`; None where none of them is wanted. second: another
    network for KID and precision/recall, because encoder and Inception were both trained on ImageNet classes.
    logits: an Inception with a class layer, for the Inception Score. lpips: for the diversity score.
    encoder: the one that made the data set's embeddings, for how samples follow instance and label.
    Raises ConfigError, before a sample is drawn, for a metric that model or data have no answer to; DataError
    for fewer pictures than a metric needs.
    """
    wanted = set(settings.metrics)
    if inception is None and wanted & OF_FEATURES:
        raise ValueError(f"no Inception network given for {', '.join(sorted(wanted & OF_FEATURES))}")
    check_following(subject.generator.config, settings)
    check_reference(subject.generator.config, reference, settings)
    count = settings.reference or reference.meta.count
    networks = [network for network in (inception, second) if network is not None]
    compared = networks if wanted & OF_FEATURES else []
    strata = training_strata(subject.data, reference) if "strata" in wanted else {}
    draws = draw(subject, settings)
    fakes, fake_logits = sample_features(subject, draws, compared, logits if "is" in wanted else None)
    scores: Scores = {}
    notes: list[str] = []

    def add(found: tuple[Scores, list[str]]) -> None:
        scores.update(found[0])
        notes.extend(found[1])

    for network, fake in zip(compared, fakes, strict=True):
        real = real_features(reference, network, count)
        if network is inception and "fid" in wanted:
            scores["fid"] = frechet_distance(real, fake)
        if network is inception and "strata" in wanted:
            classes = reference_classes(reference)[:count], sample_classes(subject, draws)
            add(compare_strata(strata, real, fake, *classes))
        scores |= compare_sets(real, fake, settings, "" if network is inception else f"_{network.name}")
    if fake_logits is not None:
        scores["is"], scores["is_deviation"] = inception_score(fake_logits, settings.seed)
    elif "is" in wanted:
        scores["is"] = None
        notes.append("Inception Score needs class logits: give a full FID Inception file with --logits")
    if lpips is not None and "lpips" in wanted:
        scores["lpips_diversity"] = lpips_diversity(subject, settings, lpips)
    if encoder is not None:
        add(score_following(subject, settings, encoder))
    if "fid" in scores and settings.samples < PUBLISHED_SAMPLES:
        notes.append(
            f"FID falls as samples are added: this one, of {settings.samples} samples, compares only with "
            f"others of {settings.samples} samples and {count} reference pictures"
        )
    parameters = {
        **dataclasses.asdict(settings),
        "data": subject.data.meta.name,
        "instances": len(subject.pool),
        "reference": f"{reference.meta.name}, {count} pictures",
        "prdc_pictures": prdc_pictures(settings, count),
        "feature_networks": [f"{network.name} {network.sha256[:12]}" for network in networks],
        "arithmetic": "float32" if inception is None else inception.arithmetic,
        "device": str(subject.device),
    }
    return Evaluation(scores, parameters, notes)


def compare_sets(real: Features, fake: Features, settings: Settings, suffix: str) -> Scores:
    """KID and precision/recall of features [N, D] and [n, D], where wanted, by names that end in `suffix`."""
    scores: Scores = {}
    if "kid" in settings.metrics:
        mean, deviation = kernel_distance(real, fake, settings.seed)
        scores |= {f"kid{suffix}": mean, f"kid_deviation{suffix}": deviation}
    if "prdc" in settings.metrics:
        limit = prdc_pictures(settings, len(real))
        found = coverage(real[:limit], fake[:limit], settings.prdc_k)
        scores |= {f"{name}{suffix}": value for name, value in dataclasses.asdict(found).items()}
    return scores


def compare_strata(
    strata: Mapping[str, NDArray[np.bool_]],
    real: Features,
    fake: Features,
    real_classes: NDArray[np.int64],
    fake_classes: NDArray[np.int64],
) -> tuple[Scores, list[str]]:
    """FID of each of the `strata` (`training_strata`), and a note on what it is of.

    The classes [N] and [n] are those of the rows of features [N, D] and [n, D]. A stratum with fewer than two
    rows on a side has no FID: None.
    """
    scores: Scores = {}
    notes = []
    for name, classes in strata.items():
        of_real, of_fake = real[classes[real_classes]], fake[classes[fake_classes]]
        enough = min(len(of_real), len(of_fake)) > 1
        scores[f"fid_{name}"] = frechet_distance(of_real, of_fake) if enough else None
        least, most = STRATA[name]
        sizes = f"{least} to {most}" if most else f"{least} or more"
        notes.append(
            f"{name} ({sizes} training pictures): {classes.sum()} classes, {len(of_fake)} samples, "
            f"{len(of_real)} reference pictures"
        )
    return scores, notes


def prdc_pictures(settings: Settings, count: int) -> int:
    """How many pictures of each kind precision, recall, density and coverage look at."""
    return min(settings.prdc_pictures, count, settings.samples)


def training_strata(data: PreparedDataset, reference: PreparedDataset) -> dict[str, NDArray[np.bool_]]:
    """For each of `STRATA` the classes [C] it holds, by their number of pictures in `data`.

    Raises `ConfigError` when one of the two sets has no labels, or they have other classes.
    """
    if data.labels is None or data.class_count is None:
        raise ConfigError(f"--metrics strata groups classes by size, {data.path} has no labels")
    if reference.meta.class_names != data.meta.class_names:
        raise ConfigError(f"--metrics strata needs the classes of {data.path} in {reference.path} too")
    sizes = np.bincount(data.labels, minlength=data.class_count)
    return {
        name: (sizes >= least) & (sizes <= (most or sizes.max())) for name, (least, most) in STRATA.items()
    }


def reference_classes(reference: PreparedDataset) -> NDArray[np.int64]:
    """The classes [N] of a reference set's pictures, in the order in which `real_features` has them."""
    assert reference.labels is not None
    return np.asarray(reference.labels)[picture_order(reference.meta.count)]


def sample_classes(subject: Subject, draws: Draws) -> NDArray[np.int64]:
    """The class [n] of every sample: the one that a class-conditional model is told."""
    assert subject.data.labels is not None
    return np.asarray(subject.data.labels)[draws.labelled]


def sample_features(
    subject: Subject, draws: Draws, networks: Sequence[FeatureNetwork], logits: Inception | None
) -> tuple[list[NDArray[np.float32]], NDArray[np.float32] | None]:
    """Features of fresh samples by every network, and their class logits; the samples are not kept."""
    count = len(draws.instances)
    features: list[list[NDArray[np.float32]]] = [[] for _ in networks]
    class_logits: list[NDArray[np.float32]] = []
    if not networks and logits is None:
        return [], None
    with Progress(count, "samples", "pictures") as progress:
        for rows in chunks(count, BATCH):
            pictures = subject.generate(draws, rows)
            for network, parts in zip(networks, features, strict=True):
                parts.append(network(pictures))
            if logits is not None:
                with torch.inference_mode():
                    found = logits.logits(logits(torch.from_numpy(pictures).to(subject.device)))
                class_logits.append(found.cpu().numpy())
            progress.advance(len(pictures))
    return [np.concatenate(parts) for parts in features], np.concatenate(class_logits) if logits else None


@torch.inference_mode()
def lpips_diversity(subject: Subject, settings: Settings, lpips: Lpips) -> float:
    """Mean LPIPS between samples of one instance: 0 where noise changes nothing, higher is more diverse."""
    repeated = dataclasses.replace(settings, samples=LPIPS_INSTANCES)
    draws = repeat(subject, draw(subject, repeated), LPIPS_SAMPLES, settings)
    distances = []
    first, other = np.triu_indices(LPIPS_SAMPLES, k=1)
    for start in range(0, len(draws.instances), LPIPS_SAMPLES):
        pictures = torch.from_numpy(subject.generate(draws, slice(start, start + LPIPS_SAMPLES)))
        maps = lpips.maps(pictures.to(subject.device))
        distances.append(lpips.distance([m[first] for m in maps], [m[other] for m in maps]).mean().item())
    return float(np.mean(distances))


def repeat(subject: Subject, draws: Draws, times: int, settings: Settings) -> Draws:
    """Every draw `times` times in a row, with the same instance and label and fresh noise."""
    count = len(draws.instances) * times
    rng = np.random.default_rng([settings.seed, count])
    return Draws(
        instances=draws.instances.repeat(times),
        labelled=draws.labelled.repeat(times),
        labels=None if draws.labels is None else draws.labels.repeat(times),
        noise=draw_noise(rng, count, subject.generator.config.dim_z, settings.truncation),
    )


def check_following(model: ModelConfig, settings: Settings) -> None:
    """Raise `ConfigError` where a model is asked how it follows what it is not told."""
    if "instance" in settings.metrics and not model.takes_embedding:
        raise ConfigError(f"--metrics instance asks how samples follow an instance: {_TOLD_LESS} instances")
    if "labels" in settings.metrics and not (model.takes_embedding and model.takes_label):
        raise ConfigError(f"--metrics labels swaps the labels of instances: {_TOLD_LESS} both")


def check_reference(model: ModelConfig, reference: PreparedDataset, settings: Settings) -> None:
    """Raise `ConfigError` for real pictures of another size, or too few, before samples are drawn.

    Pictures of two sizes differ in sharpness whatever they show, and every score would measure that.
    """
    if reference.meta.resolution != model.resolution:
        raise ConfigError(
            f"--reference {reference.path} has {reference.meta.resolution} px, the generator makes "
            f"{model.resolution} px: prepare it with --resolution {model.resolution}"
        )
    if settings.reference > reference.meta.count:
        raise ConfigError(
            f"--reference-pictures is {settings.reference}, {reference.path} has {reference.meta.count}"
        )


_TOLD_LESS = "this model does not take"


def following_samples(settings: Settings) -> int:
    """How many samples `instance` and `labels` look at."""
    return min(settings.samples, FOLLOWING_SAMPLES)


def score_following(
    subject: Subject, settings: Settings, encoder: FeatureNetwork
) -> tuple[Scores, list[str]]:
    """How samples follow instance and label, where that is wanted, and a note on how each is measured."""
    scores: Scores = {}
    notes = []
    if "instance" in settings.metrics:
        scores |= dataclasses.asdict(instance_following(subject, settings, encoder))
        notes.append(
            f"similarity: mean cosine of the embeddings of {following_samples(settings)} samples, by the "
            "encoder that the model is conditioned on; of two pictures without relation it is not 0"
        )
    if "labels" in settings.metrics:
        scores |= dataclasses.asdict(label_following(subject, settings, encoder))
        notes.append(
            f"labels: {following_samples(settings)} samples of an instance and the label of another class, "
            f"drawn at random of {subject.generator.config.class_count}; the class of a sample is that of "
            f"most of its {LABEL_VOTERS} nearest real pictures by the encoder"
        )
    return scores, notes


def instance_following(subject: Subject, settings: Settings, encoder: FeatureNetwork) -> InstanceFollowing:
    """Whether samples look like their instance, to the encoder."""
    draws = draw(subject, dataclasses.replace(settings, samples=following_samples(settings)))
    embeddings = subject.data.embeddings
    return instance_similarity(
        sample_embeddings(subject, draws, encoder),
        np.asarray(embeddings[draws.instances]),
        np.asarray(embeddings[draws.labelled]),  # a random neighbour of each instance
        draws.instances,
    )


def label_following(subject: Subject, settings: Settings, encoder: FeatureNetwork) -> LabelFollowing:
    """Whether samples of an instance with the label of another class are of that class, to the encoder."""
    draws = draw(subject, dataclasses.replace(settings, samples=following_samples(settings)))
    labels, classes = subject.labels, subject.generator.config.class_count
    assert labels is not None
    assert classes is not None
    own, rng = labels[draws.instances], np.random.default_rng([settings.seed, classes])
    told = (own + rng.integers(1, classes, size=len(own))) % classes
    swapped = dataclasses.replace(draws, labels=told)
    voters = min(LABEL_VOTERS, subject.data.meta.neighbours)
    found = nearest_rows(sample_embeddings(subject, swapped, encoder), subject.data.embeddings, voters)
    return LabelFollowing(
        label_followed=share_of_class(labels[found], told),
        label_of_instance=share_of_class(labels[found], own),
        label_of_real=share_of_class(labels[subject.data.neighbours[draws.instances, :voters]], own),
    )


def sample_embeddings(subject: Subject, draws: Draws, encoder: FeatureNetwork) -> NDArray[np.float32]:
    """Embeddings [n, D] of fresh samples, which are not kept."""
    (features,), _ = sample_features(subject, draws, [encoder], None)
    return features


def label_grid(subject: Subject, settings: Settings) -> NDArray[np.uint8] | None:
    """The same instances with other labels, as one picture; None for a model that does not take both.

    Left the instances of `example_grid`, on top a real picture of each class (of at most `GRID_LABELS`,
    evenly spaced), below it samples of that label. All samples of a row share their noise.
    """
    model, labels = subject.generator.config, subject.labels
    if not (model.takes_embedding and model.takes_label) or labels is None:
        return None
    present = np.unique(labels)
    spaced = np.linspace(0, len(present) - 1, min(GRID_LABELS, len(present))).round().astype(np.int64)
    shown = present[spaced]
    draws = draw(subject, dataclasses.replace(settings, samples=GRID_ROWS))
    every = Draws(
        instances=draws.instances.repeat(len(shown)),
        labelled=draws.labelled.repeat(len(shown)),
        labels=np.tile(shown, GRID_ROWS),
        noise=draws.noise.repeat(len(shown), axis=0),
    )
    samples = subject.samples(every)
    images = subject.data.images
    return sample_grid(
        np.asarray(images[draws.instances]),
        samples.reshape(GRID_ROWS, len(shown), *samples.shape[1:]),
        above=np.stack([images[np.flatnonzero(labels == label)[0]] for label in shown]),
    )


def plain_grid(subject: Subject, settings: Settings, columns: int) -> NDArray[np.uint8]:
    """Samples alone, each of another instance and noise, in rows of `columns`, as one picture."""
    samples = subject.samples(draw(subject, settings))
    return tiled(samples.reshape(-1, columns, *samples.shape[1:]))


def example_grid(subject: Subject, settings: Settings) -> NDArray[np.uint8]:
    """Instances left, samples right, as one picture."""
    draws = draw(subject, dataclasses.replace(settings, samples=GRID_ROWS))
    several = repeat(subject, draws, GRID_COLUMNS, settings)
    samples = subject.samples(several)
    size = samples.shape[1]
    instances = np.asarray(subject.data.images[draws.instances])
    return sample_grid(instances, samples.reshape(GRID_ROWS, GRID_COLUMNS, size, size, 3))


# ---- networks --------------------------------------------------------------------------------------------


def inception_network(path: Path, device: torch.device) -> FeatureNetwork:
    """The FID Inception-v3 as a feature network."""
    return FeatureNetwork("inception", file_sha256(path), load_inception(path).to(device), device)


def conditioning_network(data: PreparedDataset, device: torch.device) -> FeatureNetwork:
    """The encoder that made the embeddings of the data set, to embed samples as it embedded the pictures."""
    encoder = fold_batch_norm(load_encoder(data.encoder_path)).to(device)
    return FeatureNetwork(data.meta.encoder.name, data.meta.encoder.sha256, encoder, device)


def encoder_network(path: Path, device: torch.device, conditioning: EncoderIdentity) -> FeatureNetwork:
    """An encoder as the second feature network; the one the generator is conditioned on may not judge it."""
    identity = file_sha256(path)
    encoder = load_encoder(path)
    name = encoder.config.architecture
    if identity == conditioning.sha256 or name == conditioning.name:
        raise ConfigError(
            f"--second {path} is the kind of encoder the generator is conditioned on ({name}): choose another"
        )
    return FeatureNetwork(name, identity, fold_batch_norm(encoder).to(device), device)


def fid_scorer(
    data: PreparedDataset, samples: int, inception: FeatureNetwork
) -> Callable[[nn.Module, NDArray[np.int64] | None], float]:
    """What training calls at a checkpoint: FID of samples of all instances against as many real pictures."""
    settings = Settings(metrics=("fid",), samples=samples, instances=0)
    count = min(samples, data.meta.count)

    def score(generator: nn.Module, labels: NDArray[np.int64] | None) -> float:
        if not isinstance(generator, Generator):
            raise TypeError(f"expected a Generator, got {type(generator).__name__}")
        device = next(generator.parameters()).device
        subject = Subject(generator, data, labels, instance_pool(data, settings), device)
        fakes, _ = sample_features(subject, draw(subject, settings), [inception], None)
        return frechet_distance(real_features(data, inception, count), fakes[0])

    return score
