"""Exceptions of `icgan_training`.

    TrainingError            a user's mistake or a broken file: one line on stderr, status 1
    ├── ConfigError          a setting that is unknown, missing, of the wrong type or out of range
    ├── DataError            pictures, lists or prepared data sets that cannot be used
    ├── StorageError         an object storage that does not answer: no fault of the pictures in it
    ├── WeightsError         a weights file of the wrong kind, shape or hash
    ├── CheckpointError      a checkpoint that cannot be written or read
    ├── CollapseError        training diverged; names the last good checkpoint
    └── FetchError           a download that is missing, refused or altered

A library that is not installed is the `MissingExtraError` of `icgan_runtime.errors`, as everywhere.

Anything else that escapes is a bug and keeps its traceback.
"""

from icgan_runtime.errors import IcganError

# Without these nothing of the package runs: that less is installed is a user's mistake, and no bug.
LIBRARIES = {"torch", "safetensors", "tqdm"}


class TrainingError(IcganError):
    """Base of every error a user can cause and fix."""


class ConfigError(TrainingError):
    """A setting that is unknown, missing, of the wrong type or out of range."""


class DataError(TrainingError):
    """Pictures, lists or prepared data sets that cannot be used."""


class StorageError(TrainingError):
    """An object storage that does not answer; the pictures in it may be sound."""


class WeightsError(TrainingError):
    """A weights file of the wrong kind, shape or hash."""


class CheckpointError(TrainingError):
    """A checkpoint that cannot be written or read."""


class CollapseError(TrainingError):
    """Training diverged; the message names the last good checkpoint."""


class FetchError(TrainingError):
    """A download that is missing, refused or altered."""
