"""gRPC connections between parties: each side knows from the other's certificate which party it is.

Connections go straight to the address, whatever `http_proxy` says. Where there is no TLS nobody is recognised: an
address is taken for the party's whose it is, and a message for the party's that it names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache

import grpc
from cryptography import x509

from secp_spu.network.certificates import Certificates, parties_named

Options = list[tuple[str, int | str]]

REFUSED = "connection refused"
SILENT = "no answer"

_REASON_LENGTH = 160


def client_options(party: str, more: Options | None = None) -> Options:
    """Options of a channel to `party`: no proxy, and the server's certificate must have the party's name."""
    return [("grpc.enable_http_proxy", 0), ("grpc.ssl_target_name_override", party), *(more or [])]


def server_options(more: Options | None = None) -> Options:
    """Options of a server: a port that is taken is an error, and not shared."""
    return [("grpc.so_reuseport", 0), *(more or [])]


def connect(address: str, party: str, certificates: Certificates | None, more: Options | None = None) -> grpc.Channel:
    """A channel to a party, by TLS if there are certificates; opened by its first call."""
    options = client_options(party, more)
    if certificates:
        return grpc.secure_channel(address, certificates.of_client(), options)
    return grpc.insecure_channel(address, options)


def listen(server: grpc.Server, address: str, certificates: Certificates | None) -> None:
    """Have a server, of gRPC's own or of its asyncio, listen at an address and nowhere else.

    Raises: RuntimeError if it cannot.
    """
    if certificates:
        server.add_secure_port(address, certificates.of_server())
    else:
        server.add_insecure_port(address)


def caller(auth_context: Mapping[str, Iterable[bytes]], parties: Collection[str]) -> str | None:
    """The party that a client's certificate names; None if it names none of them, or several.

    Args:
        auth_context: what gRPC found out about the client.
        parties: names of all of the cluster.
    """
    for pem in auth_context.get("x509_pem_cert", ()):
        named = _named(pem, frozenset(parties))
        return named[0] if len(named) == 1 else None
    return None


@lru_cache(64)
def _named(pem: bytes, parties: frozenset[str]) -> tuple[str, ...]:
    return tuple(parties_named(x509.load_pem_x509_certificate(pem), parties))


def reason(error: grpc.RpcError) -> str:
    """Why a call failed, in a few words."""
    details = str(error.details() or "no details").splitlines()[0]
    said = details[-_REASON_LENGTH:]
    if error.code() == grpc.StatusCode.UNIMPLEMENTED:
        return f"what answers there is no party of secp_spu that is starting: {said}"
    if "hostname verification" in details.lower():
        return "no TLS connection: the certificate there does not name this party"
    if any(word in details.lower() for word in ("certificate", "ssl", "tls")):
        return f"no TLS connection: {said}"
    if "refused" in details.lower():
        return REFUSED
    return SILENT if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED else said
