"""A compute party: SecretFlow's SPU device whose parties also make correlations and keep a ledger."""

from __future__ import annotations

import os
import socket

import secretflow as sf
import secretflow.distributed as sfd
from secretflow.device.device.spu import SPURuntime
from spu import libspu

from secp_spu.config import ClusterSection
from secp_spu.protocol import MaskStream, Scheme
from secp_spu.protocol.sharing import KEY_BYTES
from secp_spu.runtime.cgroup import available_bytes
from secp_spu.runtime.chain import parts_of
from secp_spu.runtime.compute_party import BOOKED, ComputeParty, public_steps, spu_settings
from secp_spu.runtime.handles import Value
from secp_spu.runtime.heap import give_back, keep_freed_memory
from secp_spu.runtime.ledger import Ledger, LedgerState, Phase
from secp_spu.runtime.local import first_line
from secp_spu.runtime.profile import profile_log
from secp_spu.runtime.secretflow.start import certificates_of
from secp_spu.trees import JsonObject


class SpuDevice(sf.SPU):  # type: ignore[misc]  # SecretFlow has no types
    """An SPU device whose parties also make correlations and keep a ledger."""

    def __init__(self, scheme: Scheme, cluster: ClusterSection, party: str | None):
        self._scheme = scheme
        milliseconds = cluster.timeout_seconds * 1000
        link = {
            "recv_timeout_ms": milliseconds,
            "http_timeout_ms": milliseconds,
            "connect_retry_times": 120,
            "brpc_channel_connection_type": "single",  # a tenth faster than the default, where parties share cores
        }
        super().__init__(
            {
                "nodes": [_node(cluster, name, party) for name in cluster.compute],
                "runtime_config": spu_settings(scheme, on_this_machine=1 if party else scheme.parties),
            },
            link,
        )

    def init(self) -> None:
        """Start the parties; SecretFlow calls this."""
        for rank, node in enumerate(self.cluster_def["nodes"]):
            place = sfd.remote(_SpuParty).party(node["party"])
            self.actors[node["party"]] = place.remote(rank, self.cluster_def, self.link_desc, self._scheme)


def _node(cluster: ClusterSection, name: str, party: str | None) -> JsonObject:
    """A compute party as SecretFlow takes it. `party` is this process's, None in a simulation."""
    if party is None or cluster.addresses is None:
        return {"party": name, "address": _free_address()}
    address = cluster.addresses[name]
    node: JsonObject = {"party": name, "address": address.compute}
    if name == party:
        node["listen_address"] = address.bound("compute")
    if files := certificates_of(cluster):
        options: JsonObject = {
            "certificate_path": str(files.certificate),
            "private_key_path": str(files.key),
            "ca_file_path": str(files.ca),
            "verify_depth": 1,
        }
        node["tls_opts"] = {"server_ssl_opts": options, "client_ssl_opts": options}
    return node


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class _SpuParty(SPURuntime):  # type: ignore[misc]  # SecretFlow has no types
    """A compute party in a process of its own. Its first failure is the answer to all that follows."""

    def __init__(self, rank: int, cluster_def: JsonObject, link: JsonObject, scheme: Scheme):
        keep_freed_memory()
        quiet = libspu.logging.LogOptions()
        quiet.enable_console_logger, quiet.system_log_path = False, os.devnull  # else a file in the working directory
        super().__init__(rank, cluster_def, link, quiet)
        self._rank, self._scheme = rank, scheme
        self._log = profile_log()
        self._log.acquire()
        self._ledger = Ledger(1)
        self._keys: dict[int, bytes] = {}
        self._programs: dict[int, tuple[str, bytes, int]] = {}
        self._failure: Exception | None = None
        self._side: ComputeParty

    def call(self, method: str, *args: object) -> Value:
        """Run one of the methods below."""
        if self._failure:
            raise self._failure
        try:
            return getattr(self, method)(*args)
        except Exception as error:
            self._failure = RuntimeError(first_line(error))
            raise self._failure from None

    def make_key(self, component: int) -> bytes:
        """A fresh key for a component's mask stream, for its other holders."""
        self._keys[component] = os.urandom(KEY_BYTES)
        return self._keys[component]

    def take_key(self, component: int, key: bytes) -> None:
        """The key that another holder, or the dealer, has made."""
        self._keys[component] = key

    def ready(self) -> None:
        """All keys are here."""
        streams = {component: MaskStream(key) for component, key in self._keys.items()}
        self._keys.clear()
        self._side = ComputeParty(self._scheme, self._rank, self.runtime, self.link, streams=streams)

    def ask(self, phase: Phase, method: str, *args: object) -> Value:
        """Run a method of `ComputeParty`, and book what it costs under a phase."""
        if method not in BOOKED:
            return self._side.ask(method, *args)[0]
        with self._ledger.phase(phase), self._ledger.timed(BOOKED[method]) as rows:
            result, cost = self._side.ask(method, *args)
            if cost is not None:
                rows.append((BOOKED[method], cost))
        return result

    def load(self, number: int, name: str, code: bytes, openings: int) -> None:
        self._programs[number] = name, code, openings

    def execute(self, phase: Phase, number: int, inputs: list[str], outputs: list[str]) -> None:
        name, code, openings = self._programs[number]
        with (
            self._ledger.phase(phase),
            self._ledger.timed(name) as rows,
            self._log.run(name, 1, openings, rows, parts=parts_of(code)),
        ):
            rows += public_steps([self._side.execute(name, code, inputs, outputs)])

    def free_memory_bytes(self) -> int:
        give_back()
        return available_bytes()

    def drain(self) -> LedgerState:
        """What this party sent since it was last asked."""
        costs, self._ledger = self._ledger.state(), Ledger(1)
        return costs
