"""Predicts a computation's seconds on a network from what it costs on this machine.

    seconds = compute + delays * delay_seconds + 8 * bytes_in_turn / bits_per_second

`delays` are the messages of the longest chain in which each waits for the one before, `bytes_in_turn` the bytes of that
chain. Records hold the sends and bytes of a party, mean over the parties, and the two follow from how SPU 0.9.5 sends:

- A link's sends are asynchronous: the sender waits neither for the answer nor for the acknowledgement of a message,
  unless ten are not acknowledged, and a party that waits for messages never has so many. What counts is a receive.
- semi2k opens values by sending its part to every other party at once: as many delays as sends to one of them.
- aby3 multiplies in one delay and one send a party. Its truncation takes two delays, but only five sends of three
  parties: two parties send twice, the third sends once and waits for nothing. The parties' roles change at random, and
  still no party gets ahead: the next multiplication waits for the slowest. Openings and AND gates are multiplications
  in this respect. Arithmetic is mostly multiplications with a truncation, 8 sends of three parties in 3 delays, hence
  3 / (8 / 3) = 9 / 8 delays a send. Sends alone cannot tell them apart: the rule is 1/8 too high where nothing is
  truncated, as within comparisons, and 1/16 too low where truncations are all there is.
- The same multiplication with truncation has 18 bytes an element in turn where a party sends 52/3 on the average.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from secp_spu.bench.records import Case, Record
from secp_spu.bench.tables import Table
from secp_spu.errors import ConfigError

ABY3_DELAYS_PER_SEND = 9 / 8
ABY3_BYTES_IN_TURN = 27 / 26
PREDICTED_PHASES = ("offline", "online")


@dataclass(frozen=True)
class Network:
    """What links every two parties.

    Attributes:
        name: in records and tables.
        bits_per_second: of each party's uplink.
        delay_seconds: from one party to another, one way.
    """

    name: str
    bits_per_second: float
    delay_seconds: float

    def __str__(self) -> str:
        return f"{self.name} ({self.bits_per_second / 1e6:,.0f} Mbps, {1000 * self.delay_seconds:g} ms)"


LAN = Network("LAN", 3e9, 0.0008)
WAN1 = Network("WAN1", 200e6, 0.040)
WAN2 = Network("WAN2", 100e6, 0.080)
NETWORKS = (LAN, WAN1, WAN2)
"""The networks of arXiv 2506.15307; its delays are taken as one way."""


@dataclass(frozen=True)
class Prediction:
    """Seconds of a phase, by what takes them."""

    compute_seconds: float
    latency_seconds: float
    transfer_seconds: float

    @property
    def seconds(self) -> float:
        """All of them."""
        return self.compute_seconds + self.latency_seconds + self.transfer_seconds

    def record(self) -> Record:
        """As figures of a record."""
        return {
            "compute_seconds": self.compute_seconds,
            "latency_seconds": self.latency_seconds,
            "transfer_seconds": self.transfer_seconds,
            "seconds": self.seconds,
        }


def predict(costs: Mapping[str, float], network: Network, protocol: str, parties: int) -> Prediction:
    """Seconds of a phase on a network.

    Args:
        costs: `bytes` and `sends` (mean over the parties) and `seconds` without a network.
        network: to predict for.
        protocol: "aby3" or "semi2k".
        parties: how many.
    """
    if protocol == "aby3":
        delays, in_turn = ABY3_DELAYS_PER_SEND * costs["sends"], ABY3_BYTES_IN_TURN * costs["bytes"]
    else:
        delays, in_turn = costs["sends"] / (parties - 1), costs["bytes"]
    transfer = 8 * in_turn / network.bits_per_second
    return Prediction(costs["seconds"], delays * network.delay_seconds, transfer)


def network_cases(records: Iterable[Record], networks: Sequence[Network] = NETWORKS) -> list[Case]:
    """The predictions for all records that have an offline and an online phase.

    Raises: ConfigError if there is none.
    """
    found = [record for record in records if _is_predictable(record)]
    if not found:
        raise ConfigError(
            "--records: the files hold no record with offline and online costs; run a secp-spu bench first"
        )
    return [
        Case(_key(record, network), partial(_predict_phases, record, network))
        for record in found
        for network in networks
    ]


def _is_predictable(record: Record) -> bool:
    # The parts of a layer are no run of their own.
    if record["bench"].startswith(("network", "operation")) or record.get("protocol") not in ("aby3", "semi2k"):
        return False
    needed = {"bytes", "sends", "seconds"}
    phases = [record.get(phase) for phase in PREDICTED_PHASES]
    return "parties" in record and all(isinstance(phase, dict) and needed <= phase.keys() for phase in phases)


def _key(record: Record, network: Network) -> Record:
    """The network, all of the record that is no measurement, and a digest of it all: measured anew it is another."""
    plain = {name: value for name, value in record.items() if isinstance(value, str | int) and name != "machine"}
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]
    of_source = {"source_bench": record["bench"], "source_variant": record["variant"], "source_digest": digest}
    return {**plain, **of_source, "bench": "network", "variant": network.name}


def _predict_phases(record: Record, network: Network) -> Record:
    found = {p: predict(record[p], network, record["protocol"], record["parties"]) for p in PREDICTED_PHASES}
    return {
        **{phase: prediction.record() for phase, prediction in found.items()},
        "seconds": sum(prediction.seconds for prediction in found.values()),
    }


def network_tables(records: Sequence[Record]) -> list[Table]:
    """Predicted seconds by network."""
    rows = [_row(record) for record in records if record["bench"] == "network"]
    columns = ["what", "network", "offline s", "online s", "compute s", "delays s", "transfer s", "total s"]
    note = "Compute is this machine's, with all parties on it; delays and transfer are the two phases' together."
    return [Table("Predicted seconds on networks", columns, rows, [note], words=2)] if rows else []


def _row(record: Record) -> list[str]:
    sizes = [f"{name.replace('_', ' ')} {record[name]}" for name in ("seq_len", "elements") if name in record]
    model = [record["model"]] if "model" in record else []
    model += [record["activation"]] if "activation" in record else []
    what = ", ".join([record["source_bench"], record["source_variant"], record["protocol"], *model, *sizes])
    phases = [record[phase] for phase in PREDICTED_PHASES]
    parts = [sum(p[k] for p in phases) for k in ("compute_seconds", "latency_seconds", "transfer_seconds")]
    figures = [*(p["seconds"] for p in phases), *parts, record["seconds"]]
    return [what, record["variant"], *(f"{figure:,.2f}" for figure in figures)]
