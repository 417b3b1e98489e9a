"""The recipes of docs/tls.md with the files that ACME tools leave: a running proxy takes up what they copy."""

from __future__ import annotations

import grp
import os
import re
import socket
import ssl
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.certificate_trees import NAME, AcmeSh, Certbot, CertificateTree, CertManager, Lego, Lego5
from tests.support.program import Program

pytestmark = pytest.mark.slow

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
RECIPES = re.findall(r"^```sh\n(.*?)^```$", (DOCS / "tls.md").read_text(), re.DOTALL | re.MULTILINE)
SCRIPT, *HOOKS = RECIPES
GROUP = grp.getgrgid(1).gr_name


def served_certificate(address: tuple[str, int]) -> str:
    """Return the certificate that a new client gets, as PEM."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(address, timeout=20) as sock,
        context.wrap_socket(sock, server_hostname=NAME) as tls,
    ):
        return ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True) or b"")


def configuration(certs: Path) -> str:
    return f"""
        process.certificate_interval = "50ms"
        [frontends.imaps]
        backend = "b"
        bind = [{{ address = "127.0.0.1:0", mode = "tls" }}]
        tls.certificates = ["{certs}"]
        [backends.b]
        check = "none"
        servers = ["127.0.0.1:1"]
    """


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the recipe gives files to a group")
@pytest.mark.parametrize(
    ("tool", "hook"),
    [(Certbot, HOOKS[0]), (AcmeSh, HOOKS[1]), (Lego, HOOKS[2]), (Lego5, HOOKS[2])],
    ids=["certbot", "acme.sh", "lego", "lego 5"],
)
def test_certificate_of_deploy_hook_is_taken_up(
    tool: type[CertificateTree], hook: str, tmp_path: Path
) -> None:
    certs, programs = tmp_path / "certs", tmp_path / "bin"
    certs.mkdir()
    programs.mkdir()
    script = programs / "mailproxy-certificate"
    script.write_text(SCRIPT.replace("/etc/mailproxy/certs", str(certs)).replace(":mailproxy", f":{GROUP}"))
    script.chmod(0o755)
    tree = tool(tmp_path / "tree")

    def deploy() -> None:
        variables = {"PATH": f"{programs}:{os.environ['PATH']}", **tree.environment}
        subprocess.run(["sh", "-euc", hook], check=True, env=variables, umask=0)

    deploy()
    pem = certs / f"{NAME}.pem"
    assert [file.name for file in certs.iterdir()] == [pem.name]
    status = pem.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 1, 0o640)
    with Program(configuration(certs), tmp_path) as program:
        before = served_certificate(program.addresses[0])
        tree.not_after = datetime.now(UTC) + timedelta(days=80)
        tree.issue()
        deploy()
        program.wait_for(re.escape(f"taken up: {NAME} until {tree.not_after:%Y-%m-%d} ({pem})"))
        assert served_certificate(program.addresses[0]) != before
        assert "not taken up" not in program.text


def test_mounted_secret_is_taken_up(tmp_path: Path) -> None:
    tree = CertManager(tmp_path / "secret")
    with Program(configuration(tree.root), tmp_path) as program:
        before = served_certificate(program.addresses[0])
        tree.issue()
        program.wait_for(f"taken up: {NAME} until ")
        assert served_certificate(program.addresses[0]) != before


def test_openssl_cnf_chooses_ciphers_of_tls_1_3(tmp_path: Path) -> None:
    """The documentation describes this for a Python whose ``ssl`` module cannot set them."""
    cnf = tmp_path / "openssl.cnf"
    cnf.write_text(
        "openssl_conf = init\n[init]\nssl_conf = ssl\n[ssl]\nsystem_default = tls\n"
        "[tls]\nCiphersuites = TLS_CHACHA20_POLY1305_SHA256\nGroups = P-384:X25519\n"
    )
    tree = CertManager(tmp_path / "secret")
    with Program(configuration(tree.root), tmp_path, env={**os.environ, "OPENSSL_CONF": str(cnf)}) as program:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection(program.addresses[0], timeout=20) as sock,
            context.wrap_socket(sock, server_hostname=NAME) as tls,
        ):
            assert (tls.cipher() or ("",))[0] == "TLS_CHACHA20_POLY1305_SHA256"
        context.set_ecdh_curve("prime256v1")
        with socket.create_connection(program.addresses[0], timeout=20) as sock, pytest.raises(ssl.SSLError):
            context.wrap_socket(sock, server_hostname=NAME)
