"""Messages between the parties' SecretFlow processes: RayFed's two proxies, in a form that trusts no peer.

RayFed's own receiver unpickles what arrives, listens on all interfaces, and takes a message from anybody who knows its
number. Here a message is decoded by `messages`, which makes plain values alone; the server listens where the
configuration says; and a message is taken from the party that it is expected of, by that party's certificate. The
first message that is refused is the answer to all that is still expected, so the run ends with the line about it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import TypedDict

import fed.config
import grpc
from fed.exceptions import FedRemoteError
from fed.proxy.base_proxy import ReceiverProxy, SenderProxy

from secp_spu.network.certificates import Certificates
from secp_spu.network.channels import Options, caller, client_options, listen, server_options
from secp_spu.network.messages import FAILED, RefusedMessage, decode, encode
from secp_spu.network.watch import ALIVE, alive_answer

SERVICE = "secp_spu.Party"
SEND = f"/{SERVICE}/Send"

MESSAGE_BYTES = 2**31 - 2**20
"""The longest message, shortly below gRPC's own limit."""

_RETRIES = {
    "maxAttempts": 5,
    "initialBackoff": "5s",
    "maxBackoff": "30s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}

_log = logging.getLogger(__name__)

_Number = tuple[str, str]
"""What RayFed numbers a message by: the call that made it, and the call that it is for."""


class _ProxyConfig(TypedDict):
    """What is used here of RayFed's options."""

    timeout_in_ms: int


def tls_config(certificates: Certificates | None) -> dict[str, str] | None:
    """Certificates as SecretFlow takes them."""
    if certificates is None:
        return None
    return {"ca_cert": str(certificates.ca), "cert": str(certificates.certificate), "key": str(certificates.key)}


def _certificates(config: dict[str, str] | None) -> Certificates | None:
    """Certificates as SecretFlow passes them on."""
    return Certificates(*(Path(config[key]) for key in ("ca_cert", "cert", "key"))) if config else None


def _limits() -> Options:
    return [("grpc.max_send_message_length", MESSAGE_BYTES), ("grpc.max_receive_message_length", MESSAGE_BYTES)]


class PartySender(SenderProxy):  # type: ignore[misc]  # RayFed has no types
    """Sends this party's messages. One that has no form, or does not get through, tells its receiver of a failure."""

    def __init__(
        self,
        addresses: dict[str, str],
        party: str,
        job_name: str,
        tls_config: dict[str, str] | None,
        proxy_config: _ProxyConfig,
    ):
        super().__init__(addresses, party, job_name, tls_config, proxy_config)
        self._timeout = proxy_config["timeout_in_ms"] / 1000
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def send(self, dest_party: str, data: object, upstream_seq_id: object, downstream_seq_id: object) -> str:
        """Send a value; RayFed calls this.

        Raises: grpc.RpcError, TypeError; the receiver has been told then, if it can be reached.
        """
        number = str(upstream_seq_id), str(downstream_seq_id)
        if isinstance(data, FedRemoteError):
            return await self._push(dest_party, number, FAILED)
        try:
            return await self._push(dest_party, number, encode(data))
        except (TypeError, grpc.RpcError) as error:
            _log.critical("cannot send %s to %s: %s", number, dest_party, error)
            await self._push(dest_party, number, FAILED)
            raise

    async def _push(self, party: str, number: _Number, message: bytes) -> str:
        call = self._channel(party).unary_unary(SEND)
        metadata = (("run", self._job_name), ("from", number[0]), ("for", number[1]))
        await call(message, metadata=metadata, timeout=self._timeout)
        return "OK"

    def _channel(self, party: str) -> grpc.aio.Channel:
        if party not in self._channels:
            retries = json.dumps({"methodConfig": [{"name": [{"service": SERVICE}], "retryPolicy": _RETRIES}]})
            options = client_options(party, [*_limits(), ("grpc.service_config", retries)])
            certificates = _certificates(self._tls_config)
            if certificates:
                channel = grpc.aio.secure_channel(self._addresses[party], certificates.of_client(), options)
            else:
                channel = grpc.aio.insecure_channel(self._addresses[party], options)
            self._channels[party] = channel
        return self._channels[party]

    async def stop(self) -> None:
        """Close all connections."""
        for channel in self._channels.values():
            await channel.close()


class PartyReceiver(ReceiverProxy):  # type: ignore[misc]  # RayFed has no types
    """Receives the other parties' messages, and says that this party is there.

    Args:
        listen_addr: `host:port` to listen at, and nowhere else.
        party: who this is.
        job_name: the name of the run; messages of another are refused.
        tls_config: paths of certificates; none for plain text, where a sender cannot be recognised.
        proxy_config: not used.
        parties: names of all; by default those that RayFed was started with.
    """

    def __init__(
        self,
        listen_addr: str,
        party: str,
        job_name: str,
        tls_config: dict[str, str] | None,
        proxy_config: _ProxyConfig,
        parties: list[str] | None = None,
    ):
        super().__init__(listen_addr, party, job_name, tls_config, proxy_config)
        self._parties = parties or list(fed.config.get_cluster_config(job_name).cluster_addresses)
        self._mine = _certificates(tls_config)
        self._slots: dict[_Number, asyncio.Future[tuple[str | None, bytes]]] = {}
        self._refusal: RefusedMessage | None = None
        self._ready: asyncio.Future[tuple[bool, str]] = asyncio.Future()

    async def start(self) -> None:
        """Serve until the process ends; RayFed calls this."""
        server = grpc.aio.server(handlers=[_Handler(self)], options=server_options(_limits()))
        try:
            listen(server, self._listen_addr, self._mine)
        except RuntimeError as error:
            self._ready.set_result((False, f"cannot listen on {self._listen_addr}: {error}"))
            return
        await server.start()
        self._ready.set_result((True, ""))
        try:
            await server.wait_for_termination()
        finally:
            await server.stop(None)

    async def is_ready(self) -> tuple[bool, str]:
        """Whether the server listens, and if not, why."""
        return await self._ready

    async def get_data(self, src_party: str, upstream_seq_id: object, curr_seq_id: object) -> object:
        """The value of a message from a party, when it is there; RayFed calls this.

        Returns: the value, or FedRemoteError if the party has failed.
        Raises: RefusedMessage.
        """
        number = str(upstream_seq_id), str(curr_seq_id)
        sender, message = await self._slot(number)
        del self._slots[number]
        if sender not in (None, src_party):
            raise self._refuse(f"{sender} sent a message that was {src_party}'s to send: it was refused")
        if message == FAILED:
            return FedRemoteError(src_party, None)
        try:
            return decode(message)
        except ValueError as error:
            raise self._refuse(f"{src_party} sent a message that was refused: {error}") from error

    async def alive(self, _: bytes, context: grpc.aio.ServicerContext) -> bytes:
        """To another party's watch."""
        await self._sender(context)
        return alive_answer(self._party, self._job_name)

    async def take(self, message: bytes, context: grpc.aio.ServicerContext) -> bytes:
        """Keep a message until it is asked for."""
        sender = await self._sender(context)
        about = dict(context.invocation_metadata())
        if about.get("run") != self._job_name:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the message is of another run")
        slot = self._slot((str(about.get("from")), str(about.get("for"))))
        if not slot.done():
            slot.set_result((sender, message))
        elif not self._refusal and slot.result()[0] != sender:
            self._refuse(f"{sender} and {slot.result()[0]} sent the same message: it was refused")
        return b""

    async def _sender(self, context: grpc.aio.ServicerContext) -> str | None:
        """Whose certificate came with a call; None in plain text."""
        if self._mine is None:
            return None
        sender = caller(context.auth_context(), self._parties)
        if sender is None:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "the certificate names no party of this cluster")
        return sender

    def _slot(self, number: _Number) -> asyncio.Future[tuple[str | None, bytes]]:
        """Where a message arrives, or has arrived."""
        if number not in self._slots:
            self._slots[number] = asyncio.get_running_loop().create_future()
            if self._refusal:
                self._slots[number].set_exception(self._refusal)
        return self._slots[number]

    def _refuse(self, line: str) -> RefusedMessage:
        """Answer all that is expected, now and later, with a refusal."""
        self._refusal = RefusedMessage(line)
        for slot in self._slots.values():
            if not slot.done():
                slot.set_exception(self._refusal)
        return self._refusal


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]  # gRPC has no types
    """Serves a receiver's two methods, and no other."""

    def __init__(self, receiver: PartyReceiver):
        self._methods = {
            SEND: grpc.unary_unary_rpc_method_handler(receiver.take),
            ALIVE: grpc.unary_unary_rpc_method_handler(receiver.alive),
        }

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """The method that is called; None if there is no such one."""
        return self._methods.get(details.method)
