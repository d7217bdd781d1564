from dataclasses import replace

import jax
import numpy as np
import pytest

from secp_spu.model import EncoderLayer, TransformerConfig
from secp_spu.protocol import declare_correlation
from secp_spu.runtime import Correlations, Owned, PlaintextRuntime, Stored

CONFIG = TransformerConfig(
    vocab_size=2,
    width=21,
    layers=1,
    heads=3,
    intermediate=13,
    max_positions=5,
    position_offset=0,
    type_vocab_size=1,
    layer_norm_epsilon=1e-5,
)


@pytest.fixture
def runtime():
    with PlaintextRuntime() as runtime:
        yield runtime


def test_what_is_shared_or_published_can_be_opened(runtime):
    tree = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": [np.int32([1, -2])]}
    for handles in (runtime.share(Owned("alice", tree)), runtime.publish(tree)):
        assert isinstance(handles["a"], Stored)
        assert handles["a"].spec.shape == (2, 3)
        back = runtime.open_to("bob", handles)
        assert back.party == "bob"
        np.testing.assert_array_equal(back.value["a"], tree["a"])
        np.testing.assert_array_equal(back.value["b"][0], tree["b"][0])
        assert isinstance(back.value["a"], np.ndarray)


def test_a_program_computes_what_the_function_does(runtime):
    x, y = np.float32([1, 2, 3]), np.float32([4, 5, 6])
    handles = runtime.share(Owned("alice", (x, y)))
    result = runtime.run("f", lambda pair, scale: {"out": pair[0] * pair[1] + scale}, handles, runtime.publish(x))
    np.testing.assert_array_equal(runtime.open_to("alice", result).value["out"], x * y + x)
    assert runtime.ledger.report()["online"]["programs"]["f"]["bytes_total"] == 0
    assert runtime.ledger.report()["online"]["seconds"] > 0


def test_a_function_is_traced_once_for_every_shape(runtime):
    traces = []

    def f(x):
        traces.append(x.shape)
        return x + 1

    for size in (3, 3, 5):
        runtime.run("f", f, runtime.share(Owned("alice", np.ones(size, np.float32))))
    assert traces == [(3,), (5,)]


def test_no_correlations_are_made(runtime):
    assert runtime.correlations({"features": declare_correlation((2, 3))}) == Correlations({})


@pytest.mark.parametrize("attention", ["softmax", "rfa"])
def test_a_layer_runs_as_in_flax(runtime, attention):
    """With the driver's arguments; without correlations the plaintext module computes."""
    layer = EncoderLayer(replace(CONFIG, attention=attention))
    hidden = np.random.default_rng(0).normal(size=(2, 5, 21)).astype(np.float32)
    padding_mask = np.float32([[1] * 5, [1] * 3 + [0] * 2])
    variables = layer.init(jax.random.key(1), hidden, padding_mask)
    declared = variables.get("correlations", {})
    variables = {name: value for name, value in variables.items() if name != "correlations"}

    def run_layer(variables, hidden, padding_mask, correlations):
        return layer.apply({**variables, "correlations": correlations}, hidden, padding_mask)

    handles = (
        runtime.share(Owned("model owner", variables)),
        *runtime.share(Owned("data owner", (hidden, padding_mask))),
    )
    result = runtime.run("layer", run_layer, *handles, runtime.correlations(declared))
    # Compiled or not, sums of up to 21 products in another order: 21 * 2**-24 of numbers up to 10.
    expected = layer.apply(variables, hidden, padding_mask)
    np.testing.assert_allclose(runtime.open_to("owner", result).value, expected, rtol=0, atol=2e-5)


def test_what_is_freed_is_gone(runtime):
    handles = runtime.share(Owned("alice", [np.ones(3, np.float32)] * 2))
    runtime.free(handles[0])
    with pytest.raises(KeyError):
        runtime.open_to("alice", handles[0])
    runtime.open_to("alice", handles[1])
    runtime.close()
    with pytest.raises(KeyError):
        runtime.open_to("alice", handles[1])


def test_actors_and_disclosed_values_work_as_under_mpc(runtime):
    actor = runtime.actor("alice", list, [1])
    actor.append(2)
    assert runtime.disclose(actor.copy()) == [1, 2]
    with pytest.raises(ValueError, match="alice was given a value of bob"):
        actor.append(Owned("bob", 3))


def test_what_an_owner_has_is_at_home_in_a_single_process(runtime):
    assert runtime.at_home(Owned("alice", "a line")) == "a line"
    assert runtime.settle() is None


def test_an_error_in_the_driver_abandons_the_runtime():
    """`close` might wait for parties that never answer."""
    ended = []

    class Recorder(PlaintextRuntime):
        def close(self):
            ended.append("close")

        def abandon(self):
            ended.append("abandon")

    with pytest.raises(KeyboardInterrupt), Recorder():
        raise KeyboardInterrupt
    with Recorder():
        pass
    assert ended == ["abandon", "close"]


def test_an_abandoned_runtime_of_a_single_process_is_closed(runtime):
    handle = runtime.publish(np.ones(3, np.float32))
    runtime.abandon()
    with pytest.raises(KeyError):
        runtime.open_to("alice", handle)
