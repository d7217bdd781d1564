"""Makes a certificate authority for tests, and a certificate for each party of a cluster.

python scripts/make_test_ca.py --out tls alice bob carol
python scripts/make_test_ca.py --out tls --config cluster.yaml   # the parties of its cluster.addresses

Writes ca.pem, ca.key, and NAME.pem and NAME.key for each party. NAME is the certificate's common name, and a DNS name
among its subject alternative names. The parties recognise each other by this name, so the certificates do not depend on
the machines' addresses. Of the configuration only the names of the parties are read.

The certificates are for tests, because this script knows all keys. In a real cluster each party makes its own key, and
an authority that all parties trust signs its certificate. Whoever has ca.key can be any party.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Iterable
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAYS = 30


def make_test_ca(folder: Path, parties: Iterable[str]) -> None:
    """Write an authority and the parties' certificates.

    Args:
        folder: made if it does not exist.
        parties: their names.
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
    for party in parties:
        key = ec.generate_private_key(ec.SECP256R1())
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            _certificate(_name(party), issuer, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(both), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(party)]), critical=False)
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


def _write(folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret = folder / f"{name}.key"
    secret.touch(mode=0o600)
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))


def names_in(config: Path) -> list[str]:
    """The parties of a configuration: the keys of its `cluster.addresses`.

    Raises: ValueError for a file that is no configuration of a cluster with addresses.
    """
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
        return list(content["cluster"]["addresses"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(f"{config} has no readable `cluster.addresses`: give the parties' names instead") from error


def main() -> int:
    """Exit 0, or 2 with one line on bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a party's name")
    parser.add_argument("--config", type=Path, help="YAML file whose cluster.addresses has the parties' names")
    parser.add_argument("--out", type=Path, required=True, help="folder for the certificates")
    arguments = parser.parse_args()
    if bool(arguments.names) == bool(arguments.config):
        parser.error("give either the parties' names or --config")
    try:
        names = arguments.names or names_in(arguments.config)
        make_test_ca(arguments.out, names)
    except (ValueError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.out}: ca.pem, and a certificate and a key for each of {', '.join(names)}; for tests alone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
