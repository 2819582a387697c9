"""Keys and certificates of one lab's control plane, made anew for each lab: a CA, the API server, an administrator."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lab.kube import SERVER
from lab.namespace import API_IP, NODE_IP

Key = ec.EllipticCurvePrivateKey
_VALID = datetime.timedelta(days=30)
_CA_USAGE = x509.KeyUsage(
    digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
    data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
)  # fmt: skip
_SERVER_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")


def _key() -> Key:
    # Elliptic curves: an RSA key takes up to a second to find.
    return ec.generate_private_key(ec.SECP256R1())


def _save(folder: Path, name: str, key: Key, certificate: x509.Certificate | None = None) -> None:
    path = folder / f"{name}.key"
    path.touch(mode=0o600)
    path.write_text(_pem(key))
    if certificate is not None:
        (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _name(common: str, organisation: str = "lab") -> x509.Name:
    given = ((NameOID.ORGANIZATION_NAME, organisation), (NameOID.COMMON_NAME, common))
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in given])


def _builder(subject: x509.Name, key: Key, issuer: x509.Name, issuer_key: Key) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + _VALID)
        # Python 3.13 and later insist on the key identifiers.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )


def create(folder: Path, kubeconfig: Path) -> None:
    """Write ca, apiserver, admin (key and certificate) and the key of service-account tokens; then the kubeconfig."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca_key, ca_name = _key(), _name("lab-ca")
    ca = (
        _builder(ca_name, ca_key, ca_name, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_CA_USAGE, critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    _save(folder, "ca", ca_key, ca)
    addresses = [x509.IPAddress(ipaddress.ip_address(text)) for text in ("127.0.0.1", API_IP, NODE_IP)]
    names = x509.SubjectAlternativeName([*map(x509.DNSName, _SERVER_NAMES), *addresses])
    for name, subject, usage, extra in (
        ("apiserver", _name("kube-apiserver"), ExtendedKeyUsageOID.SERVER_AUTH, names),
        ("admin", _name("lab-admin", "system:masters"), ExtendedKeyUsageOID.CLIENT_AUTH, None),
    ):
        key = _key()
        builder = _builder(subject, key, ca_name, ca_key).add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if extra is not None:
            builder = builder.add_extension(extra, critical=False)
        _save(folder, name, key, builder.sign(ca_key, hashes.SHA256()))
    _save(folder, "service-account", _key())
    _write_kubeconfig(folder, kubeconfig)


def self_signed(hosts: Sequence[str]) -> tuple[str, str]:
    """(certificate, key) in PEM for a public door of the lab; nobody vouches for it, and its names say so."""
    key, name = _key(), _name(hosts[0], "self-signed lab certificate")
    names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
    builder = _builder(name, key, name, key).add_extension(names, critical=False)
    server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    ending = x509.BasicConstraints(ca=True, path_length=0)  # clients may be told to trust it
    signed = builder.add_extension(server, critical=False).add_extension(ending, critical=True)
    certificate = signed.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return certificate.decode(), _pem(key)


def _pem(key: Key) -> str:
    form = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def _write_kubeconfig(folder: Path, path: Path) -> None:
    def data(name: str) -> str:
        return base64.b64encode((folder / name).read_bytes()).decode()

    cluster = {"server": SERVER, "certificate-authority-data": data("ca.crt")}
    user = {"client-certificate-data": data("admin.crt"), "client-key-data": data("admin.key")}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": cluster}],
        "users": [{"name": "lab", "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "current-context": "lab",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=1))  # JSON is YAML
