"""Score a trained generator: compare the features of its samples with those of real pictures.

Every setting is printed beside the scores, because a score without them means nothing.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from icgan_training.data.advice import FEW
from icgan_training.data.dataset import PreparedDataset
from icgan_training.errors import ConfigError
from icgan_training.networks.backbones import AnyConfig
from icgan_training.networks.generator import Generator
from icgan_training.networks.inception import Inception
from icgan_training.networks.lpips import Lpips
from icgan_training.networks.stylegan2.generator import StyleGAN2Generator
from icgan_training.score.copies import Pair, score_copies
from icgan_training.score.features import FeatureNetwork, picture_order, real_features
from icgan_training.score.following import check_following, score_following
from icgan_training.score.metrics import (
    Features,
    Scores,
    coverage,
    frechet_distance,
    inception_score,
    kernel_distance,
)
from icgan_training.score.subject import (
    PUBLISHED_SAMPLES,
    Draws,
    EvaluationSettings,
    Subject,
    draw,
    instance_pool,
    repeat,
    sample_features,
)

OF_FEATURES = frozenset({"fid", "kid", "prdc", "strata", "copies"})
"""Those that compare features of samples and real pictures, by Inception and perhaps a second network."""
STRATA = {"many": (100, None), "medium": (21, 99), "few": (1, 20)}
"""Classes by their number of training pictures, as the published long-tail evaluation groups them."""
LPIPS_INSTANCES = 100
LPIPS_SAMPLES = 8


@dataclass(frozen=True)
class Evaluation:
    """Scores, and everything they depend on."""

    scores: Scores
    parameters: dict[str, Any]
    notes: list[str]
    closest: list[Pair] = field(default_factory=list)  # of the metric `copies`, most suspicious first

    def add(self, scores: Scores, notes: list[str]) -> None:
        """More of both."""
        self.scores.update(scores)
        self.notes.extend(notes)

    def to_json(self) -> str:
        """The text of evaluation.json."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"


def evaluate(
    subject: Subject,
    reference: PreparedDataset,
    settings: EvaluationSettings,
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
    found = Evaluation({}, _parameters(subject, reference, settings, networks, count), [])
    for network, fake in zip(compared, fakes, strict=True):
        real = real_features(reference, network, count)
        if network is inception:
            _add_inception_scores(found, subject, reference, settings, (real, fake), strata, draws)
        suffix = "" if network is inception else f"_{network.name}"
        found.scores.update(compare_sets(real, fake, settings, suffix))
    if fake_logits is not None:
        found.scores["is"], found.scores["is_deviation"] = inception_score(fake_logits, settings.seed)
    elif "is" in wanted:
        found.scores["is"] = None
        found.notes.append("Inception Score needs class logits: give a full FID Inception file with --logits")
    if lpips is not None and "lpips" in wanted:
        found.scores["lpips_diversity"] = lpips_diversity(subject, settings, lpips)
    if encoder is not None:
        found.add(*score_following(subject, settings, encoder))
    if "fid" in found.scores and settings.samples < PUBLISHED_SAMPLES:
        found.notes.append(
            f"FID falls as samples are added: this one, of {settings.samples} samples, compares only with "
            f"others of {settings.samples} samples and {count} reference pictures"
        )
    if subject.data.meta.count < FEW and wanted & {"fid", "kid", "prdc"}:
        found.notes.append(
            f"The model was trained on {subject.data.meta.count} pictures: against so few, scores hang on "
            "each of them, and a model that repeats them scores well (--metrics copies, copies.png)"
        )
    return found


def _add_inception_scores(
    found: Evaluation,
    subject: Subject,
    reference: PreparedDataset,
    settings: EvaluationSettings,
    features: tuple[Features, Features],
    strata: Mapping[str, NDArray[np.bool_]],
    draws: Draws,
) -> None:
    """Scores that are of Inception's features [N, D] and [n, D] alone, of real pictures and samples."""
    real, fake = features
    if "fid" in settings.metrics:
        found.scores["fid"] = frechet_distance(real, fake)
    if "strata" in settings.metrics:
        classes = reference_classes(reference)[: len(real)], sample_classes(subject, draws)
        found.add(*compare_strata(strata, real, fake, *classes))
    if "copies" in settings.metrics:
        scores, closest = score_copies(real, fake, picture_order(reference.meta.count))
        found.add(scores, [])
        found.closest.extend(closest)
        if len(real) < subject.data.meta.count or reference is not subject.data:
            found.notes.append(
                f"copies were looked for among {len(real)} pictures of {reference.meta.name}, not among all "
                f"{subject.data.meta.count} that the model was trained on"
            )


def _parameters(
    subject: Subject,
    reference: PreparedDataset,
    settings: EvaluationSettings,
    networks: Sequence[FeatureNetwork],
    count: int,
) -> dict[str, Any]:
    """What the scores depend on; the first of the networks is Inception, where there is any."""
    return {
        **dataclasses.asdict(settings),
        "data": subject.data.meta.name,
        "instances": len(subject.pool) if subject.prior is None else repr(subject.prior),
        "reference": f"{reference.meta.name}, {count} pictures",
        "prdc_pictures": prdc_pictures(settings, count),
        "feature_networks": [f"{network.name} {network.sha256[:12]}" for network in networks],
        "arithmetic": networks[0].arithmetic if networks else "float32",
        "device": str(subject.device),
    }


def compare_sets(real: Features, fake: Features, settings: EvaluationSettings, suffix: str) -> Scores:
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


def prdc_pictures(settings: EvaluationSettings, count: int) -> int:
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
    """The class [n] of every sample: the one that a class-conditional model is given."""
    assert subject.data.labels is not None
    return np.asarray(subject.data.labels)[draws.labelled]


@torch.inference_mode()
def lpips_diversity(subject: Subject, settings: EvaluationSettings, lpips: Lpips) -> float:
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


def check_reference(model: AnyConfig, reference: PreparedDataset, settings: EvaluationSettings) -> None:
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


def fid_scorer(
    data: PreparedDataset, samples: int, inception: FeatureNetwork
) -> Callable[[nn.Module, NDArray[np.int64] | None], float]:
    """What training calls at a checkpoint: FID of samples of all instances against as many real pictures."""
    settings = EvaluationSettings(metrics=("fid",), samples=samples, instances=0)
    count = min(samples, data.meta.count)

    def score(generator: nn.Module, labels: NDArray[np.int64] | None) -> float:
        if not isinstance(generator, Generator | StyleGAN2Generator):
            raise TypeError(f"expected a Generator, got {type(generator).__name__}")
        device = next(generator.parameters()).device
        subject = Subject(generator, data, labels, instance_pool(data, settings), device)
        fakes, _ = sample_features(subject, draw(subject, settings), [inception], None)
        return frechet_distance(real_features(data, inception, count), fakes[0])

    return score
