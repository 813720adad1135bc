"""Which networks may judge."""

import pytest

from icgan_training.errors import ConfigError
from icgan_training.score.feature_networks import encoder_network
from tests.training.subjects import CPU


def test_the_conditioning_encoder_may_not_judge(subject, encoder_file):
    identity = subject.data.meta.encoder
    assert encoder_network(encoder_file, CPU, identity).name == "efficientnet-lite0"
    own = type(identity)("efficientnet-lite0", "c" * 64, 32, 1280)
    with pytest.raises(ConfigError, match="choose another"):
        encoder_network(encoder_file, CPU, own)
