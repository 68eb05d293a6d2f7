"""A certificate for a Service, as a Secret of type kubernetes.io/tls with the ca.crt that signed it."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Json = dict[str, Any]
_PEM = serialization.Encoding.PEM


def authority(name: str) -> tuple[bytes, ec.EllipticCurvePrivateKey]:
    """A CA: its certificate as PEM, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name)
    certificate = (
        _builder(subject, subject, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(_PEM), key


def tls_secret(name: str, host: str) -> Json:
    """The Secret `name` with a certificate for `host`, good for a day, signed by a CA of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    ca, signer = authority("channel CA")
    leaf = (
        _builder(_name(host), _name("channel CA"), key)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    private = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files = {"tls.crt": leaf.public_bytes(_PEM), "tls.key": private, "ca.crt": ca}
    data = {file: base64.b64encode(content).decode() for file, content in files.items()}
    return {"metadata": {"name": name}, "type": "kubernetes.io/tls", "data": data}


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - timedelta(minutes=5),
        not_valid_after=now + timedelta(days=1),
    )
