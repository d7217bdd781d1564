"""Makes a certificate authority for tests, and a certificate for each party of a cluster's configuration.

python scripts/make_test_ca.py --config configs/cluster-aby3.yaml --out configs/tls

Writes ca.pem, ca.key, and NAME.pem and NAME.key for each party. NAME is the certificate's common name, and a DNS name
among its subject alternative names: by that the parties recognise each other.

It is for tests: one script knows all keys here. For real parties, each makes its own key, and an authority that all of
them trust signs its certificate; who has ca.key can be any party.
"""

from __future__ import annotations

import argparse
import datetime
import ipaddress
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from secp_spu.config import load_config
from secp_spu.errors import ConfigError

DAYS = 30


def make_test_ca(folder: Path, hosts: dict[str, list[str]]) -> None:
    """Write an authority and the parties' certificates.

    Args:
        folder: made if it is not there.
        hosts: more names or addresses that a party's certificate names, by party: where the others reach it.
    Raises: FileExistsError for a folder that has an authority already.
    """
    if (folder / "ca.pem").exists():
        raise FileExistsError(f"{folder} has an authority already: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    issuer = _name("secp_spu test authority")
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = (
        _certificate(issuer, issuer, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    _write(folder, "ca", authority, authority_key)
    for party, reached_at in hosts.items():
        names = [party, *(host for host in reached_at if host != party)]
        key = ec.generate_private_key(ec.SECP256R1())
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            _certificate(_name(party), issuer, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(both), critical=False)
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .sign(authority_key, hashes.SHA256())
        )
        _write(folder, party, certificate, key)


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    hour = datetime.timedelta(hours=1)  # clocks differ
    return builder.not_valid_before(now - hour).not_valid_after(now + datetime.timedelta(days=DAYS))


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret = folder / f"{name}.key"
    secret.touch(mode=0o600)
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))


def main() -> int:
    """Exit 0, or 2 with one line on bad input."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="YAML file with cluster.addresses")
    parser.add_argument("--out", type=Path, required=True, help="folder for the certificates")
    arguments = parser.parse_args()
    try:
        cluster = load_config(arguments.config, ["cluster.plain_text=true", "cluster.tls=null"]).cluster
        if cluster is None or cluster.addresses is None:
            raise ConfigError(f"{arguments.config} has no cluster.addresses: they say for which hosts to certify")
        hosts = {
            name: sorted({a.rpartition(":")[0] for a in (found.control, found.compute) if a})
            for name, found in cluster.addresses.items()
        }
        make_test_ca(arguments.out, hosts)
    except (ConfigError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.out}: ca.pem, and a certificate and key for each of {', '.join(hosts)}; for tests alone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
