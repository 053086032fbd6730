"""Creates a certificate authority for a test, and a broker certificate signed by it."""

import subprocess
from pathlib import Path

THIS_HOST = "DNS:localhost,IP:127.0.0.1"


def make_certificates(folder: Path, *, names: str = THIS_HOST, days: int = 2) -> tuple[Path, Path]:
    """Return the CA certificate, and a PEM file with the broker's key and certificate chain.

    The broker's certificate is for `names`, and valid for so many `days`; with less than 0 it has expired.
    """

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    (folder / "names").write_text(f"subjectAltName={names}\n")
    new = ("-newkey", "rsa:2048", "-nodes")
    openssl("req", "-x509", *new, "-days", "2", "-subj", "/CN=Test CA", "-keyout", "ca.key", "-out", "ca.pem")
    openssl("req", *new, "-subj", "/CN=localhost", "-keyout", "broker.key", "-out", "broker.csr")
    by = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", str(days))
    openssl("x509", "-req", "-in", "broker.csr", *by, "-extfile", "names", "-out", "broker.pem")
    openssl("pkcs8", "-topk8", "-nocrypt", "-in", "broker.key", "-out", "broker.p8")
    parts = [(folder / name).read_text() for name in ("broker.p8", "broker.pem", "ca.pem")]
    (folder / "keystore.pem").write_text("".join(parts))
    return folder / "ca.pem", folder / "keystore.pem"
