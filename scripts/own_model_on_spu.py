"""The one-opening cosine and random feature attention on a SecretFlow SPU device, for programs of your own.

python scripts/own_model_on_spu.py

SecretFlow simulates alice, bob and carol on this machine, who compute under ABY3. The first program takes alice's
numbers, the second her queries, keys and values. Results are opened to alice alone, who compares them with plaintext.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import Any

import jax
import numpy as np

from secp_spu.model import RandomFeatureAttention, TransformerConfig
from secp_spu.protocol import cos_sin
from secp_spu.runtime.secretflow.spu_correlations import SpuCorrelations
from secp_spu.runtime.secretflow.spu_logging import SPU_LOGGING_PATCHED, worker_hook

# isort: split
import secretflow as sf  # after the imports of secp_spu, without which it cannot be imported with an unpatched spu

PARTIES = ["alice", "bob", "carol"]
CONFIG = TransformerConfig(
    vocab_size=100,
    width=32,
    layers=1,
    heads=2,
    intermediate=64,
    max_positions=16,
    position_offset=0,
    type_vocab_size=1,
    layer_norm_epsilon=1e-5,
    attention="rfa",
    features=16,
)


def cosine(correlations: SpuCorrelations, spu: sf.SPU, alice: sf.PYU, numbers: np.ndarray) -> None:
    """cos and sin of x @ W turns: x W - t is opened, where t is a fresh mask."""
    turns = np.array([[0.25, 0.1], [0.5, 0.0]], np.float32)
    secure = correlations.jit(lambda x: cos_sin(x, turns), name="cosine")
    result = secure(alice(lambda: numbers)().to(spu))
    show_proof("cosine", correlations)
    show("cosine and sine", result.to(alice), cos_sin(numbers, turns))


def attention(correlations: SpuCorrelations, spu: sf.SPU, alice: sf.PYU, bob: sf.PYU, rng: np.random.Generator) -> None:
    """Random feature attention of alice's queries, keys and values, with bob's learned lengths."""
    module = RandomFeatureAttention(CONFIG)
    inputs = tuple(rng.normal(size=(1, 2, 8, 16)).astype(np.float32) for _ in range(3))
    inputs += (np.ones((1, 8), np.float32),)  # the padding mask
    variables = module.init(jax.random.key(0), *inputs)
    params, public = (jax.tree.map(np.asarray, variables[name]) for name in ("params", "public"))

    @correlations.jit
    def attention(params: Any, public: Any, *inputs: Any) -> Any:
        return module.apply({"params": params, "public": public}, *inputs)

    secret_params, secret_inputs = bob(lambda: params)().to(spu), [alice(lambda a=a: a)().to(spu) for a in inputs]
    result = attention(secret_params, public, *secret_inputs)
    show_proof("attention", correlations)
    plaintext = module.apply({"params": params, "public": public}, *inputs)
    show("random feature attention", result.to(alice), plaintext)


def show_proof(name: str, correlations: SpuCorrelations) -> None:
    """Print the proof of the program that has just run; without a proof it does not run."""
    report = correlations.programs[-1].audit
    print(
        f"{name}: {len(report.openings)} opening, masked by {', '.join(report.masks)}, SHA-256 {report.sha256[:16]}..."
    )


def show(name: str, result: sf.PYUObject, expected: Any) -> None:
    """Let alice, who alone has the result, compare it with plaintext."""
    expected = jax.tree.map(np.asarray, expected)
    print(f"{name}: {sf.reveal(result.device(_largest_error)(result, expected)):.1e} from plaintext at most")


def _largest_error(found: Any, expected: Any) -> float:
    return max(
        float(np.abs(a - b).max()) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    )


def start() -> tuple[SpuCorrelations, sf.SPU, sf.PYU, sf.PYU]:
    """SecretFlow's simulation with an SPU device of three parties, two PYUs, and correlations for the device."""
    options = {"num_cpus": 16, "log_to_driver": False, "include_dashboard": False, "configure_logging": False}
    options["_node_ip_address"] = "127.0.0.1"  # where Ray listens, by default on all of the machine's addresses
    if not SPU_LOGGING_PATCHED:
        options["runtime_env"] = {"worker_process_setup_hook": worker_hook()}
    warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)  # JAX's, of Ray's processes
    sf.init(PARTIES, address="local", **options)
    settings = {"protocol": "ABY3", "field": "FM64", "fxp_fraction_bits": 18}
    spu = sf.SPU(sf.utils.testing.cluster_def(PARTIES, settings))
    return SpuCorrelations(spu), spu, sf.PYU("alice"), sf.PYU("bob")


def main() -> None:
    """Both examples in SecretFlow's simulation mode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    correlations, spu, alice, bob = start()
    rng = np.random.default_rng(0)
    cosine(correlations, spu, alice, rng.uniform(-9, 9, (6, 2)).astype(np.float32))
    attention(correlations, spu, alice, bob, rng)
    sf.shutdown()


if __name__ == "__main__":
    sys.exit(main())
