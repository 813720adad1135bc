"""What is scored: a trained generator with the data set it was trained on, and how its samples are drawn.

Protocol (IC-GAN, section 4.1): instances are the real pictures nearest to 1,000 k-means centroids of the
embeddings, drawn uniformly; the label of a class-conditional model is that of a random neighbour of the
instance; noise is normal; 50,000 samples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from icgan_runtime.prior import Prior
from icgan_training.data.dataset import PreparedDataset, chunks
from icgan_training.data.labels import check_classes, training_labels
from icgan_training.data.neighbours import kmeans_instances, nearest_rows, random_instances
from icgan_training.data.prior import fit_prior
from icgan_training.errors import ConfigError
from icgan_training.fit.run import find_data, read_config
from icgan_training.networks.arithmetic import full_float32
from icgan_training.networks.backbones import AnyConfig, AnyGenerator
from icgan_training.networks.checkpoint import load_generator
from icgan_training.networks.config import LabelSource
from icgan_training.networks.inception import Inception
from icgan_training.networks.stylegan2.config import StyleGAN2Config
from icgan_training.networks.stylegan2.generator import StyleGAN2Generator
from icgan_training.progress import Progress
from icgan_training.score.features import FeatureNetwork

METRICS = ("fid", "kid", "prdc", "is", "lpips", "strata", "copies", "instance", "labels")
OF_PICTURES = ("strata", "instance", "labels")
Choice = Literal["kmeans", "random"]
PUBLISHED_SAMPLES = 50_000
BATCH = 64


@dataclass(frozen=True)
class EvaluationSettings:
    """How samples are drawn and compared."""

    metrics: tuple[str, ...] = ("fid", "kid", "prdc", "lpips")
    samples: int = PUBLISHED_SAMPLES
    instances: int = 1000  # 0: every picture of the data set
    prior: int = 0  # centres of a prior that the instances are drawn from instead; 0: they are pictures
    choice: Choice = "kmeans"  # nearest to k-means centroids, or at random (the paper's ablation)
    reference: int = 0  # real pictures compared with; 0: all of the reference set
    prdc_pictures: int = 10_000  # of each kind at most; the scores depend on it
    prdc_k: int = 5
    # None, or t: noise within ±2t; on StyleGAN2 normal noise, and w pulled towards its mean by psi = t
    truncation: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ConfigError(f"--metrics names none; known: {', '.join(METRICS)}")
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown:
            raise ConfigError(f"--metrics {unknown[0]} is unknown; known: {', '.join(METRICS)}")
        if self.instances < 0:
            raise ConfigError(f"--instances is {self.instances}, it must be 0 (all) or more")
        if self.prior < 0:
            raise ConfigError(f"--instances prior:{self.prior}: the number of centres must be at least 1")
        stored = [name for name in self.metrics if name in OF_PICTURES]
        if self.prior and stored:
            raise ConfigError(
                f"--metrics {stored[0]} asks for the picture that a sample follows, and instances of a prior "
                "are no pictures: leave it out, or give --instances a number"
            )
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

    instances: NDArray[np.int64]  # [n]; of a prior's instances the pictures nearest to them
    labelled: NDArray[np.int64]  # [n], rows whose label the model is given: one neighbour of each instance
    labels: NDArray[np.int64] | None  # [n], None for a model without
    noise: NDArray[np.float32]  # [n, dim_z]
    psi: float = 1.0  # truncation towards the mean w, of the backbone that has one
    embeddings: NDArray[np.float32] | None = None  # [n, D], where they are not those of the instances


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a generator, the data it was trained on, its labels and its instances."""

    generator: AnyGenerator  # in eval mode, on `device`
    data: PreparedDataset
    labels: NDArray[np.int64] | None  # [N], None for a model without
    pool: NDArray[np.int64]  # rows that serve as instances
    device: torch.device
    prior: Prior | None = None  # that instances are drawn from instead of the pool

    @torch.inference_mode()
    def generate(self, draws: Draws, rows: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Samples of some rows of the draws, uint8 [n, R, R, 3]."""
        noise = torch.from_numpy(draws.noise[rows]).to(self.device)
        embedding = label = None
        if self.generator.config.takes_embedding:
            drawn = draws.embeddings
            followed = self.data.embeddings[draws.instances[rows]] if drawn is None else drawn[rows]
            embedding = torch.from_numpy(followed).to(self.device)
        if draws.labels is not None:
            label = torch.from_numpy(draws.labels[rows]).to(self.device)
        with full_float32():
            if isinstance(self.generator, StyleGAN2Generator):
                image = self.generator(noise, embedding, label, draws.psi)
            else:
                image = self.generator(noise, embedding, label).float()
        levels = ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return np.asarray(levels.permute(0, 2, 3, 1).cpu())

    def samples(self, draws: Draws) -> NDArray[np.uint8]:
        """Samples of all rows of the draws, in batches: uint8 [N, R, R, 3]."""
        return np.concatenate([self.generate(draws, rows) for rows in chunks(len(draws.instances), BATCH)])


def load_subject(
    run_dir: Path, data_path: Path | None, settings: EvaluationSettings, device: torch.device
) -> Subject:
    """The generator of a run directory and its data set, checked to belong together, and its instances.

    data_path: where the prepared data set is; None takes what the run's config.json says.
    """
    generator = load_generator(run_dir).to(device)
    config = read_config(run_dir)
    chosen = data_path or find_data(run_dir, config)
    if chosen is None:
        raise ConfigError(f"{run_dir / 'config.json'} names no data set: give one with --data")
    data = PreparedDataset.open(chosen)
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
    prior = None
    if settings.prior:
        if not generator.config.takes_embedding:
            raise ConfigError(f"--instances prior:{settings.prior}: this model does not take instances")
        classes = generator.config.class_count or 0
        prior = fit_prior(data.embeddings, settings.prior, labels, classes)
    return Subject(generator, data, labels, rows, device, prior)


def check_fit(
    model: AnyConfig, data: PreparedDataset, encoder_sha256: str | None, source: LabelSource = "dataset"
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


def instance_pool(data: PreparedDataset, settings: EvaluationSettings) -> NDArray[np.int64]:
    """Rows that may serve as instances, ascending."""
    if settings.instances == 0 or settings.instances >= data.meta.count:
        return np.arange(data.meta.count)
    if settings.choice == "random":
        return random_instances(data.meta.count, settings.instances, settings.seed)
    return kmeans_instances(data.embeddings, settings.instances, settings.seed)


def draw(subject: Subject, settings: EvaluationSettings) -> Draws:
    """The inputs of `settings.samples` samples; the same for the same seed."""
    rng = np.random.default_rng(settings.seed)
    if subject.prior is not None:
        return _draw_from(subject.prior, subject, settings, rng)
    data, instances = subject.data, rng.choice(subject.pool, settings.samples)
    columns = rng.integers(data.meta.neighbours, size=settings.samples)
    # a baseline knows no neighbourhoods: its labels are those of the pool
    takes_instance = subject.generator.config.takes_embedding
    labelled = data.neighbours[instances, columns].astype(np.int64) if takes_instance else instances
    return Draws(
        instances=instances,
        labelled=labelled,
        labels=None if subject.labels is None else subject.labels[labelled],
        **truncated_noise(rng, settings.samples, subject.generator.config, settings.truncation),
    )


def _draw_from(
    prior: Prior, subject: Subject, settings: EvaluationSettings, rng: np.random.Generator
) -> Draws:
    """As a bundle draws that has this prior: an instance and its label by seed and sample."""
    embeddings, label = prior.instances(settings.seed, np.arange(settings.samples))
    nearest = nearest_rows(embeddings, subject.data.embeddings, 1)[:, 0]
    return Draws(
        instances=nearest,
        labelled=nearest,
        labels=label,
        embeddings=embeddings,
        **truncated_noise(rng, settings.samples, subject.generator.config, settings.truncation),
    )


def truncated_noise(
    rng: np.random.Generator, count: int, model: AnyConfig, truncation: float | None
) -> dict[str, Any]:
    """What `Draws` holds of the noise, in the backbone's meaning of truncation."""
    if isinstance(model, StyleGAN2Config):
        noise = draw_noise(rng, count, model.dim_z, None)
        return {"noise": noise, "psi": 1.0 if truncation is None else truncation}
    return {"noise": draw_noise(rng, count, model.dim_z, truncation)}


def draw_noise(
    rng: np.random.Generator, count: int, dim: int, truncation: float | None
) -> NDArray[np.float32]:
    """Normal noise [count, dim]; with truncation t, normal noise given that it lies within ±2t."""
    if truncation is None:
        return rng.standard_normal((count, dim), dtype=np.float32)
    bound = math.erf(2 * truncation / math.sqrt(2))
    uniform = torch.from_numpy(rng.uniform(-bound, bound, (count, dim)))
    return (math.sqrt(2) * torch.erfinv(uniform)).float().numpy()


def repeat(subject: Subject, draws: Draws, times: int, settings: EvaluationSettings) -> Draws:
    """Every draw `times` times in a row, with the same instance and label and fresh noise."""
    count = len(draws.instances) * times
    rng = np.random.default_rng([settings.seed, count])
    return Draws(
        instances=draws.instances.repeat(times),
        labelled=draws.labelled.repeat(times),
        labels=None if draws.labels is None else draws.labels.repeat(times),
        embeddings=None if draws.embeddings is None else draws.embeddings.repeat(times, axis=0),
        **truncated_noise(rng, count, subject.generator.config, settings.truncation),
    )


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
