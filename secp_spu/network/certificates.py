"""Certificates of a party: reads them, refuses what TLS would trip over later, and tells which party one names.

A party's certificate has the party's name among the DNS names of its subject alternative names. That is how parties
recognise each other, so the names and addresses of their machines need not be in it.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from secp_spu.errors import ConfigError

_NAME_IT = "a certificate of secp_spu has its party's name as a DNS name among its subject alternative names"


@dataclass(frozen=True)
class Certificates:
    """A party's own certificate and key, and the authority that signs all parties' (PEM files)."""

    ca: Path
    certificate: Path
    key: Path

    def of_client(self) -> grpc.ChannelCredentials:
        """What gRPC needs for a connection to another party."""
        return grpc.ssl_channel_credentials(*(path.read_bytes() for path in (self.ca, self.key, self.certificate)))

    def of_server(self) -> grpc.ServerCredentials:
        """What gRPC needs for a server that takes no client without a certificate of the authority."""
        pair = self.key.read_bytes(), self.certificate.read_bytes()
        return grpc.ssl_server_credentials([pair], self.ca.read_bytes(), require_client_auth=True)

    def check(self, party: str, parties: Iterable[str]) -> None:
        """Refuse files with which a connection would fail, or name another party.

        Args:
            party: whose files they are.
            parties: names of all of the cluster.
        Raises: ConfigError naming the configuration's key.
        """
        authorities = _read("ca", self.ca)
        own = _read("certificate", self.certificate)[0]
        _check_dates("certificate", self.certificate, own)
        _check_name(self.certificate, own, party, parties)
        _check_issuer(self, own, authorities)
        _check_key(self.key, own)


def parties_named(certificate: x509.Certificate, parties: Iterable[str]) -> list[str]:
    """The parties whose names are DNS names of a certificate."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return sorted(set(parties) & set(found.get_values_for_type(x509.DNSName)))


def _read(key: str, path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cluster.tls.{key}: {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"cluster.tls.{key}: {path} is no certificate in PEM form: convert or replace it") from error


def _check_dates(key: str, path: Path, certificate: x509.Certificate) -> None:
    now = datetime.datetime.now(datetime.timezone.utc)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        raise ConfigError(f"cluster.tls.{key}: {path} expired at {end:%Y-%m-%d %H:%M} UTC: have a new one made")
    if now < begin:
        raise ConfigError(
            f"cluster.tls.{key}: {path} is not valid before {begin:%Y-%m-%d %H:%M} UTC, and this machine's clock says "
            f"{now:%Y-%m-%d %H:%M}: set the clock, or wait"
        )


def _check_name(path: Path, certificate: x509.Certificate, party: str, parties: Iterable[str]) -> None:
    named = parties_named(certificate, parties)
    if party not in named:
        instead = f"names {' and '.join(named)}" if named else "names no party"
        raise ConfigError(f"cluster.tls.certificate: {path} {instead}, but this party is {party}: {_NAME_IT}")
    if len(named) > 1:
        raise ConfigError(
            f"cluster.tls.certificate: {path} names {' and '.join(named)}, so nobody could tell them apart: have one "
            f"made that names {party} alone"
        )


def _check_issuer(files: Certificates, own: x509.Certificate, authorities: list[x509.Certificate]) -> None:
    issuers = [authority for authority in authorities if _signed(own, authority)]
    if not issuers:
        raise ConfigError(
            f"cluster.tls.certificate: {files.certificate} is signed by {own.issuer.rfc4514_string()!r}, and not by a "
            f"certificate in cluster.tls.ca ({files.ca}): name the authority that signs the parties' certificates "
            "itself; one that another stands between cannot be used"
        )
    issuer = issuers[0]
    if not _signed(issuer, issuer):
        raise ConfigError(
            f"cluster.tls.ca: {files.ca} is an intermediate authority, signed by {issuer.issuer.rfc4514_string()!r}, "
            "which SPU's link does not accept: make an authority of its own for the parties, and sign with that"
        )
    _check_dates("ca", files.ca, issuer)
    try:
        is_authority = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_authority = False
    if not is_authority:
        raise ConfigError(
            f"cluster.tls.ca: {files.ca} is no certificate of an authority (basic constraints without CA): name the "
            "one that signs the parties' certificates"
        )


def _signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _check_key(path: Path, own: x509.Certificate) -> None:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise ConfigError(f"cluster.tls.key: {path}: {error.strerror}") from error
    except TypeError as error:
        raise ConfigError(
            f"cluster.tls.key: {path} is protected by a passphrase, which a party cannot ask for: write the key "
            "without one (openssl pkey -in FILE -out FILE), readable by this user alone"
        ) from error
    except ValueError as error:
        raise ConfigError(f"cluster.tls.key: {path} is no private key in PEM form: convert or replace it") from error
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(*form) != own.public_key().public_bytes(*form):
        raise ConfigError(
            f"cluster.tls.key: {path} is not the key of cluster.tls.certificate: name the two that were made together"
        )
