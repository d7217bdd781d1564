"""Starts SecretFlow: all parties on this machine, or one party of a cluster, when all have met and agreed.

Ray, which SecretFlow runs a party's processes with, listens on 127.0.0.1 alone. It asks nobody who they are: every user
of a party's machine can reach it, and run code as this user.
"""

from __future__ import annotations

import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import fed
import secretflow as sf

from secp_spu.config import SERVERS, AddressSection, ClusterSection, ServerKey, port_of
from secp_spu.errors import RuntimeFailure
from secp_spu.network.certificates import Certificates
from secp_spu.network.meeting import Facts, Meeting
from secp_spu.network.transport import PartyReceiver, PartySender, tls_config
from secp_spu.network.watch import LINGER_SECONDS, Watch
from secp_spu.runtime.secretflow.ray_folder import check_ray_folder
from secp_spu.runtime.secretflow.ray_processes import mark_ray_processes

_LOGGING_LEVEL = "critical"  # SecretFlow's; what a user has to know is raised

Agree = Callable[[dict[str, Facts]], None]
"""Compares what the parties say of themselves, by name; raises ConfigError if they do not go together."""


def start_simulation(cluster: ClusterSection, worker_hook: Callable[[], None] | None) -> None:
    """SecretFlow with all parties on this machine.

    Args:
        cluster: the parties.
        worker_hook: for every process that Ray starts.
    Raises: ConfigError if Ray cannot use its folder.
    """
    check_ray_folder()
    sf.init(cluster.everyone, **_ray_options(cluster, worker_hook))


def start_party(
    cluster: ClusterSection, party: str, facts: Facts, agree: Agree, worker_hook: Callable[[], None] | None
) -> Watch:
    """SecretFlow as one party of a cluster, when all are up and agree.

    Args:
        cluster: the parties, with addresses.
        party: which of them this process is.
        facts: what it tells all others of itself.
        agree: compares all parties' facts.
        worker_hook: for every process that Ray starts.
    Returns: what tells whether the others are still there.
    Raises: ConfigError for certificates or a folder of Ray's that cannot be used, or from `agree`; RuntimeFailure for a
        port that is taken, or a party that does not come up.
    """
    if cluster.addresses is None:
        raise ValueError("cluster.addresses are missing")
    cluster.refuse_plain_text()
    check_ray_folder()
    certificates = certificates_of(cluster)
    if certificates:
        certificates.check(party, cluster.everyone)
    mine = cluster.addresses[party]
    for key in SERVERS:
        if address := mine.bound(key):
            _check_free(party, mine, key, address)
    others = {name: address.control for name, address in cluster.addresses.items() if name != party}
    control = mine.bound("control") or mine.control
    meeting = Meeting(party, others, control, certificates, facts, cluster.data_owner)
    met = meeting.hold(cluster.start_seconds)
    agree(met.facts)
    _start_secretflow(cluster, party, certificates, met.run, worker_hook)
    watch = Watch(others, certificates, met.run)
    try:
        watch.wait(cluster.start_seconds)
    except BaseException:
        linger(watch)
        raise
    return watch


def certificates_of(cluster: ClusterSection) -> Certificates | None:
    """This party's certificates; None for plain text."""
    return Certificates(cluster.tls.ca, cluster.tls.certificate, cluster.tls.key) if cluster.tls else None


def linger(watch: Watch) -> None:
    """After another's failure: go on answering for a while, so that all blame the party that failed first."""
    time.sleep(LINGER_SECONDS)
    watch.end()


def _ray_options(cluster: ClusterSection, worker_hook: Callable[[], None] | None) -> dict[str, object]:
    mark_ray_processes()
    # JAX's, for every process that Ray starts; none of them goes on with JAX's threads
    warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
    options: dict[str, object] = {
        "address": "local",
        "num_cpus": 4 * len(cluster.everyone),  # actors that mostly wait; Ray counts one CPU for starting each
        "log_to_driver": False,
        "include_dashboard": False,
        "configure_logging": False,
        "_node_ip_address": "127.0.0.1",  # where all of Ray's servers listen: a party has one Ray, on one machine
        # Ray would let the processes that compute step back behind its own
        "_system_config": {"worker_register_timeout_seconds": 300, "worker_niceness": 0},
    }
    if worker_hook:
        options["runtime_env"] = {"worker_process_setup_hook": worker_hook}
    return options


def _start_secretflow(
    cluster: ClusterSection,
    party: str,
    certificates: Certificates | None,
    run: str,
    worker_hook: Callable[[], None] | None,
) -> None:
    addresses = cluster.addresses or {}
    parties: dict[str, dict[str, str | None]] = {name: {"address": a.control} for name, a in addresses.items()}
    parties[party]["listen_addr"] = addresses[party].bound("control")
    try:
        with _own_proxies():
            sf.init(
                cluster_config={"parties": parties, "self_party": party},
                cross_silo_comm_options={
                    "exit_on_sending_failure": False,
                    "timeout_in_ms": cluster.timeout_seconds * 1000,
                },
                enable_waiting_for_other_parties_ready=False,
                tls_config=tls_config(certificates),
                logging_level=_LOGGING_LEVEL,
                job_name=run,
                **_ray_options(cluster, worker_hook),
            )
    except AssertionError as error:  # how RayFed says that the receiver's server did not start
        raise RuntimeFailure(str(error)) from error


@contextmanager
def _own_proxies() -> Iterator[None]:
    """Have RayFed start `transport`'s proxies, for which SecretFlow has no argument, instead of its own."""
    original, called = fed.init, False

    def init(**arguments: object) -> None:
        nonlocal called
        called = True
        original(**arguments, sender_proxy_cls=PartySender, receiver_proxy_cls=PartyReceiver)

    fed.init = init
    try:
        yield
    finally:
        fed.init = original
    if not called:
        raise RuntimeError("SecretFlow has not started RayFed by fed.init: its version is not the locked one")


def _check_free(party: str, mine: AddressSection, key: ServerKey, address: str) -> None:
    where = f"cluster.addresses.{party}.{f'listen.{key}' if mine.listens_apart(key) else key}"
    host = address.rpartition(":")[0]
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was closed just now is free
        try:
            probe.bind((host, port_of(address)))
        except OSError as error:
            raise RuntimeFailure(
                f"cannot listen on {address} ({where}): {error.strerror}; free the port, or choose another in the "
                f"configurations of all parties; where the others reach this machine by an address that is not its own "
                f"(Docker, NAT, a cloud), say where it listens: cluster.addresses.{party}.listen"
            ) from error
