"""The weights that a run starts from: checked against the data, put into new networks, named in config.json.

Only networks come along. Optimiser states are new, and so is the discriminator where the origin has none or
one of another kind.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from icgan_runtime.files import sha256_of_file
from icgan_training.data.dataset import PreparedDataset
from icgan_training.errors import ConfigError
from icgan_training.fit.run import read_config
from icgan_training.networks.backbones import AnyConfig, AnyDiscriminator, AnyGenerator, backbone_of
from icgan_training.networks.checkpoint import load_discriminator, load_generator

GENERATOR, DISCRIMINATOR = "generator.safetensors", "discriminator.safetensors"
DISCRIMINATOR_FIELDS = ("discriminator", "discriminator_multipliers")
"""Settings of a model that do not touch its generator: a run may have others than its origin."""


@dataclass(frozen=True)
class Origin:
    """A run directory, shipped, converted or of one's own, whose weights another run starts from."""

    folder: Path
    model: AnyConfig
    config: dict[str, Any]  # of its config.json

    @classmethod
    def open(cls, folder: Path) -> "Origin":
        """Raises ConfigError for what is no run directory, WeightsError for a damaged generator."""
        if not folder.is_dir():
            raise ConfigError(f"--from {folder} is no folder: name a run directory, or models/demo")
        return cls(folder, load_generator(folder).config, read_config(folder))

    @property
    def preset(self) -> str:
        """The name of the preset that says how it is trained on a small set."""
        return "small-set-stylegan2" if backbone_of(self.model) == "stylegan2" else "small-set"

    def discriminator(self, model: AnyConfig) -> AnyDiscriminator | None:
        """Its discriminator, if it has one of the shape that `model` asks for."""
        if not (self.folder / DISCRIMINATOR).exists():
            return None
        found = load_discriminator(self.folder)
        return found if found.config == model else None

    def words(self, model: AnyConfig) -> str:
        """What a run of `model` takes of it, for the person who waits."""
        if self.discriminator(model) is not None:
            return f"generator and discriminator of {self.folder}"
        return f"the generator of {self.folder}; its discriminator is new"

    def check(self, data: PreparedDataset) -> None:
        """Raise ConfigError unless the data's embeddings are those that the generator was trained on."""
        if data.meta.resolution != self.model.resolution:
            raise ConfigError(
                f"--from {self.folder} draws {self.model.resolution} px, {data.path} has"
                f" {data.meta.resolution} px: prepare the pictures with --resolution {self.model.resolution}"
            )
        if not self.model.takes_embedding:
            return
        known, own = self.config.get("encoder", {}), data.meta.encoder
        name, sha256 = known.get("name") or known.get("trained_with", "its encoder"), known.get("sha256")
        if sha256 is None:
            raise ConfigError(
                f"--from {self.folder} does not say which encoder it was trained with: convert it again with"
                " --encoder FILE"
            )
        if (sha256, self.model.embedding_dim) == (own.sha256, data.meta.embedding_dim):
            return
        raise ConfigError(
            f"--from {self.folder} takes embeddings of {name} ({self.model.embedding_dim} numbers, input"
            f" {known.get('input_size', '?')} px, SHA-256 {str(sha256)[:12]}...), {data.path} has those of"
            f" {own.name} ({data.meta.embedding_dim}, {own.input_size} px, {own.sha256[:12]}...): prepare the"
            " pictures with the encoder of the weights"
        )

    def describe(self) -> dict[str, Any]:
        """What config.json of the new run says of it: name and hashes, and the licence that binds both."""
        files = {"generator": GENERATOR, "discriminator": DISCRIMINATOR}
        hashes = {
            name: sha256_of_file(path) if (path := self.folder / file).exists() else None
            for name, file in files.items()
        }
        place = self.folder.resolve()
        own = {"path": str(place), "name": self.config.get("name", place.name)}
        licence = {} if "licence" not in self.config else {"licence": self.config["licence"]}
        return {"origin": own | hashes} | licence

    def fill(self, generator: AnyGenerator, discriminator: AnyDiscriminator) -> None:
        """Put its weights into new networks; the discriminator stays new where there is none of its shape."""
        copy_weights(load_generator(self.folder), generator)
        if (judge := self.discriminator(discriminator.config)) is not None:
            copy_weights(judge, discriminator)


def model_of(origin: Origin, asked: AnyConfig, settings: dict[str, Any]) -> AnyConfig:
    """The origin's model with what was asked for its discriminator. Raises ConfigError for anything else.

    asked: the preset's model with `settings`, which the user chose by name.
    """
    fields = {field.name for field in dataclasses.fields(origin.model)}
    for name in sorted(fields & settings.keys()):
        if name not in DISCRIMINATOR_FIELDS and settings[name] != getattr(origin.model, name):
            raise ConfigError(
                f"--set {name}: the weights of --from {origin.folder} have"
                f" {getattr(origin.model, name)!r}, which cannot change: leave it out"
            )
    if type(asked) is not type(origin.model):
        raise ConfigError(
            f"--preset is for another backbone than --from {origin.folder}: leave --preset out, or choose"
            " one of its backbone"
        )
    chosen = {name: settings[name] for name in DISCRIMINATOR_FIELDS if name in fields & settings.keys()}
    return dataclasses.replace(origin.model, **chosen)


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """The values of one network into another of its shapes, whose memory layout stays."""
    for name, value in target.state_dict().items():
        value.copy_(source.state_dict()[name])
