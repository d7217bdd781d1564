"""Authorities and parties' certificates for tests, good ones and others."""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from secp_spu.network.certificates import Certificates

DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates, with its own in FOLDER/ca.pem; `above` signs the authority's."""

    def __init__(self, folder, above=None, *, is_authority=True, end=DAY):
        folder.mkdir(exist_ok=True, parents=True)
        self.folder, self.key = folder, ec.generate_private_key(ec.SECP256R1())
        name, signer = _name(str(folder)), above or self
        self.name = name
        builder = _builder(name, signer.name, self.key, -2 * DAY, end)
        constraints = x509.BasicConstraints(ca=is_authority, path_length=None)
        self.certificate = builder.add_extension(constraints, critical=True).sign(signer.key, hashes.SHA256())
        (folder / "ca.pem").write_bytes(_pem(self.certificate))

    def certify(self, party, names=None, *, begin=-DAY, end=DAY, password=None):
        """The files of a party, in a certificate with its name as the common name and `names` as DNS names."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(party), self.name, key, begin, end)
        alternatives = [x509.DNSName(name) for name in ([party] if names is None else names)]
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        files = Certificates(*(self.folder / name for name in ("ca.pem", f"{party}.pem", f"{party}.key")))
        files.certificate.write_bytes(_pem(builder.sign(self.key, hashes.SHA256())))
        hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        files.key.write_bytes(key.private_bytes(*form, hidden))
        return files


def _builder(name, issuer, key, begin, end):
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key.public_key())
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now + begin).not_valid_after(now + end)


def _name(common):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[-60:])])


def _pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)
