"""What a data owner's texts need of the model, and what is said where they do not have it."""

import pytest
from small_runs import LABELS, SMALL

from secp_spu.cli.app import DEMO_CONFIG
from secp_spu.config import load_config
from secp_spu.errors import ConfigError
from secp_spu.tuning import DataOwner


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["task.max_tokens=400"],
            r"max_tokens \+ tuning.prompt_tokens is 404, but the model has 64 positions: lower one",
        ),
        (
            [*LABELS, 'task.labels={negative: "no", positive: "' + "good " * 70 + '"}'],
            r"a text of task.labels has 7\d tokens, but the model 64 positions: shorten it",
        ),
    ],
    ids=["texts", "labels"],
)
def test_what_is_longer_than_the_model_reads_is_refused(tmp_path, settings, message):
    config = load_config(DEMO_CONFIG, [*SMALL, "protocol=plaintext", *settings])
    with pytest.raises(ConfigError, match=message):
        DataOwner(config, tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()
