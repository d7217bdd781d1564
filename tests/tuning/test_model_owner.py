"""The model owner takes the activation that the configuration asks for, if its checkpoint was adapted to it."""

import numpy as np
import pytest
from models import RFA_MODEL

from secp_spu.cli.app import DEMO_CONFIG
from secp_spu.config import load_config
from secp_spu.model import CheckpointError, fold_layer, load_checkpoint
from secp_spu.protocol import fit_gelu
from secp_spu.tuning import ModelOwner

SERIES = ("model.activation=series", "model.activation_range=6")


def owner(*settings):
    return ModelOwner(load_config(DEMO_CONFIG, [f"model.folder={RFA_MODEL}", *settings]))


def test_the_checkpoints_own_activation_is_the_default():
    """This one's is relu."""
    assert owner().transformer_config() == owner("model.activation=relu").transformer_config()
    assert (owner().transformer_config().activation, owner().transformer_config().head_activation) == ("relu", "gelu")


@pytest.mark.parametrize("settings", [("model.activation=gelu",), ("model.activation=gelu_tanh",), SERIES])
def test_another_one_is_refused_unless_it_is_forced(settings):
    with pytest.raises(CheckpointError, match="has activation relu, asked for is .*set model.force_activation: true"):
        owner(*settings)
    forced = owner(*settings, "model.force_activation=true").transformer_config()
    assert f"model.activation={forced.activation}" == settings[0]
    assert forced.series == (fit_gelu(6, 5) if settings == SERIES else None)


def test_a_series_without_a_range_is_refused():
    with pytest.raises(CheckpointError, match="set model.activation_range"):
        owner("model.activation=series", "model.force_activation=true")


def test_the_number_of_terms_is_the_configurations():
    config = owner(*SERIES, "model.activation_terms=7", "model.force_activation=true").transformer_config()
    assert config.series == fit_gelu(6, 7)


def test_weights_do_not_depend_on_a_forced_function():
    forced, checkpoint = owner(*SERIES, "model.force_activation=true"), load_checkpoint(RFA_MODEL)
    expected = fold_layer(checkpoint.layer(0)["params"], None, checkpoint.config)
    np.testing.assert_array_equal(forced.layer(0)["intermediate"]["kernel"], expected["intermediate"]["kernel"])


def test_what_everybody_learns_of_the_head_is_a_power_of_two():
    limit = owner().logit_limit([5, 6])
    assert limit == 32
    assert owner("model.head=label_embeddings").logit_limit([]) == 32
