"""What the parties' processes receive and write in a real run, searched for what only another may know.

No party has a file that is another's, so what it holds came in by SecretFlow's messages, which are all recorded, or by
SPU's, whose openings the audit proves masked.
"""

import re

import jax
import numpy as np
import pytest
from small import CONFIG, SEED
from watched import SETTINGS

from secp_spu.config import load_config
from secp_spu.model import load_checkpoint
from secp_spu.network.messages import decode
from secp_spu.protocol import encode
from secp_spu.tuning import DataOwner, RunRecord

pytestmark = pytest.mark.cluster

MODEL = load_config(CONFIG).model.folder


@pytest.fixture(scope="module")
def secrets_of_alice(watched, tmp_path_factory):
    """Byte strings that only alice may have, by what they are."""
    config, record = load_config(CONFIG, [*SETTINGS, SEED]), RunRecord.load(watched.out)
    copy = tmp_path_factory.mktemp("copy")
    record.save(copy)
    owner = DataOwner(config, copy, resume=True)
    found = {}
    for line in config.task.pool.read_text().splitlines()[:4] + config.task.test.read_text().splitlines()[:4]:
        found[f"text {line}"] = re.search(r'"text": "([^"]+)"', line).group(1).encode()
    hidden, prompt = owner.inputs("training", 0, 4)["hidden"], owner.prompts("best", 0, 1)
    for name, array in (("embedding", hidden[1, 1, :8]), ("prompt", prompt[0, 1, :8])):
        found |= {f"{name} as float": array.tobytes(), f"{name} in the ring": encode(array).tobytes()}
    found["labels"] = owner._texts["test"].labels.tobytes() + owner._texts["training"].labels.tobytes()
    losses = record.generations[0].losses
    found |= {"losses": np.array(losses[:2]).tobytes(), "a loss in words": repr(losses[0])[:10].encode()}
    found["the best point"] = np.array(record.best[:2]).tobytes()
    return found


@pytest.fixture(scope="module")
def secrets_of_bob():
    """Byte strings that only bob may have: weights of a layer, as floats and as ring elements."""
    kernel = load_checkpoint(MODEL).layer(1)["params"]["output"]["kernel"][3, :8]
    return {"weights as float": np.asarray(kernel).tobytes(), "weights in the ring": encode(kernel).tobytes()}


def _received(record, party):
    return [path.read_bytes() for path in sorted(record.glob(f"{party}-*"))]


def _found(secrets, content):
    return {name for name, secret in secrets.items() if secret in content}


def test_messages_to_the_others_hold_no_secret_of_the_data_owner(watched, secrets_of_alice):
    for party in ("bob", "carol"):
        messages = _received(watched.received, party)
        assert len(messages) > 20
        for message in messages:
            assert not _found(secrets_of_alice, message)


def test_the_others_receive_shares_keys_and_what_all_may_know(watched):
    """Floats are public frequencies; arrays of ring elements are shares; anything else is small."""
    public = load_checkpoint(MODEL)
    frequencies = [np.asarray(leaf) for leaf in jax.tree.leaves(public.variables["public"])]
    shares = 0
    for party in ("bob", "carol"):
        for message in _received(watched.received, party):
            for leaf in jax.tree.leaves(decode(message)):
                if not isinstance(leaf, np.ndarray):
                    continue
                if leaf.dtype == np.uint64:
                    shares += 1
                else:
                    assert any(np.array_equal(leaf, known) for known in frequencies), (leaf.dtype, leaf.shape)
    assert shares > 20


def test_parts_that_are_opened_go_to_the_data_owner_alone(watched):
    """A message with a bare list of ring elements is one party's part of logits; shares come as dicts by component."""
    for party in ("alice", "bob", "carol"):
        parts = [
            value
            for message in _received(watched.received, party)
            if isinstance(value := decode(message), list)
            and value
            and all(isinstance(part, np.ndarray) for part in value)
        ]
        assert (len(parts) >= 8) if party == "alice" else not parts


@pytest.mark.parametrize("party", ["bob", "carol"])
def test_what_the_others_write_holds_no_secret_of_the_data_owner(watched, secrets_of_alice, party):
    assert len(watched.written[party]) > 5
    for path in watched.written[party]:
        content = path.read_bytes()
        assert not _found(secrets_of_alice, content), path
        assert b"accuracy" not in content, path
        assert b"generation" not in content or party not in path.name, path


def test_messages_and_files_of_the_others_hold_no_weights(watched, secrets_of_bob):
    for party in ("alice", "carol"):
        messages = _received(watched.received, party)
        assert len(messages) > 20
        for content in (*messages, *(path.read_bytes() for path in watched.written[party])):
            assert not _found(secrets_of_bob, content)
