"""The whole mail host of `config/`, with clients of other projects on all eight ports, in front of real servers."""

from __future__ import annotations

import imaplib
import os
import poplib
import shutil
import smtplib
import ssl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.interop.mail_host import SCREENED, MailHost, run_mail_host
from tests.support.programs.dovecot import PASSWORD

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.interop.conftest import Site

pytestmark = pytest.mark.peers

USER = "user7"
CLIENT_TIMEOUT_S = 60.0
MESSAGE = "From: a@example.com\r\nTo: b@mail.example\r\nSubject: news\r\n\r\nHello\r\n"


@pytest.fixture(scope="module")
def host(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MailHost]:
    with run_mail_host(site, tmp_path_factory.mktemp("host")) as host:
        yield host


@pytest.fixture
def context(host: MailHost) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(host.ca))


def run(command: Sequence[str], text: str = "", check: int | None = 0) -> str:
    """Run a client, and return its output."""
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=CLIENT_TIMEOUT_S, check=False
    )
    output = done.stdout + done.stderr
    assert check is None or done.returncode == check, output
    return output


def installed(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


# Python's own


def test_imaplib_upgrades(host: MailHost, context: ssl.SSLContext) -> None:
    with imaplib.IMAP4("localhost", host.ports[143]) as client:
        assert "LOGINDISABLED" in client.capabilities
        assert "IDLE" in client.capabilities  # learnt from Dovecot
        client.starttls(context)
        assert "AUTH=PLAIN" in client.capabilities
        client.login(USER, PASSWORD)
        assert client.select()[0] == "OK"
    line = host.wait_for(host.dovecot, rf"imap-login: Info: Login: user=<{USER}>.*")
    assert "rip=127.0.0.1" in line
    assert ", secured," in line


def test_poplib_upgrades(host: MailHost, context: ssl.SSLContext) -> None:
    client = poplib.POP3("localhost", host.ports[110])
    assert "STLS" in client.capa()
    assert "USER" not in client.capa()
    client.stls(context)
    client.user(USER)
    client.pass_(PASSWORD)
    assert client.stat()[0] >= 0
    client.quit()
    assert ", secured," in host.wait_for(host.dovecot, rf"pop3-login: Info: Login: user=<{USER}>.*")


def test_smtplib_submits(host: MailHost, context: ssl.SSLContext) -> None:
    with smtplib.SMTP("localhost", host.ports[587]) as client:
        client.ehlo("client.example")
        assert client.has_extn("starttls")
        assert client.has_extn("size")  # learnt from Postfix
        assert not client.has_extn("auth")
        client.starttls(context=context)
        client.ehlo("client.example")
        client.login(USER, PASSWORD)
        client.sendmail("a@example.com", ["b@mail.example"], MESSAGE)
    line = host.wait_for(host.postfix, rf"submission/smtpd.*client=.*sasl_username={USER}")
    assert "127.0.0.1" in line


@pytest.mark.parametrize("upgrades", [False, True], ids=["clear", "STARTTLS"])
def test_smtplib_delivers(host: MailHost, context: ssl.SSLContext, upgrades: bool) -> None:
    with smtplib.SMTP("localhost", host.ports[25]) as client:
        name = "upgraded.example" if upgrades else "clear.example"
        client.ehlo(name)
        if upgrades:
            client.starttls(context=context)
            client.ehlo(name)
        client.sendmail("a@example.com", ["b@mail.example"], MESSAGE)
    host.wait_for(host.postfix, r"smtpd\[\d+\]: [0-9A-F]+: client=unknown\[127\.0\.0\.1\]")


# curl, OpenSSL


@pytest.mark.parametrize(("scheme", "number"), [("imap", 143), ("imaps", 993), ("pop3", 110), ("pop3s", 995)])
def test_curl_reads(host: MailHost, scheme: str, number: int) -> None:
    url = f"{scheme}://localhost:{host.ports[number]}/"
    command = [
        installed("curl"),
        "--silent",
        "--show-error",
        "--ssl-reqd",
        "--cacert",
        str(host.ca),
        "--user",
        f"{USER}:{PASSWORD}",
        url,
    ]
    run(command)


@pytest.mark.parametrize(("scheme", "number"), [("smtp", 587), ("smtps", 465), ("smtp", 25)])
def test_curl_sends(host: MailHost, tmp_path: Path, scheme: str, number: int) -> None:
    mail = tmp_path / "mail"
    mail.write_text(MESSAGE)
    url = f"{scheme}://localhost:{host.ports[number]}/client.example"
    user = [] if number == 25 else ["--user", f"{USER}:{PASSWORD}"]
    run(
        [
            installed("curl"), "--silent", "--show-error", "--ssl-reqd", "--cacert", str(host.ca), *user, "--mail-from",
            "a@example.com", "--mail-rcpt", "b@mail.example", "--upload-file", str(mail), url,
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("protocol", "number", "text"),
    [
        ("imap", 143, f"a LOGIN {USER} {PASSWORD}\r\nb LOGOUT\r\n"),
        ("pop3", 110, f"USER {USER}\r\nPASS {PASSWORD}\r\nQUIT\r\n"),
        ("smtp", 587, "EHLO x.example\r\nQUIT\r\n"),
        ("smtp", 25, "EHLO x.example\r\nQUIT\r\n"),
        ("sieve", 4190, "CAPABILITY\r\nLOGOUT\r\n"),
    ],
)
def test_openssl_upgrades(host: MailHost, protocol: str, number: int, text: str) -> None:
    output = run(
        [
            installed("openssl"), "s_client", "-quiet", "-verify_quiet", "-verify_return_error", "-CAfile", str(host.ca),
            "-verify_hostname", "localhost", "-starttls", protocol, "-connect", f"localhost:{host.ports[number]}",
        ],
        text,
        check=None,
    )  # fmt: skip
    words = {"imap": "a OK", "pop3": "+OK Logged in", "smtp": "250", "sieve": '"SASL" "PLAIN LOGIN"'}
    assert words[protocol] in output


# Mail clients


def test_mbsync_upgrades(host: MailHost, tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    file = tmp_path / "mbsyncrc"
    file.write_text(
        f"IMAPAccount a\nHost localhost\nPort {host.ports[143]}\nUser {USER}\nPass {PASSWORD}\nSSLType STARTTLS\n"
        f"CertificateFile {host.ca}\nAuthMechs LOGIN\n\nIMAPStore far\nAccount a\n\nMaildirStore near\nPath {tmp_path}/mail/\n"
        f"Inbox {tmp_path}/mail/inbox\n\nChannel c\nFar :far:\nNear :near:\nCreate Near\nPatterns INBOX\nSyncState *\n"
    )
    run([installed("mbsync"), "-c", str(file), "c"])


def test_swaks_submits(host: MailHost) -> None:
    command = [
        installed("swaks"), "--server", "localhost", "--port", str(host.ports[587]), "--tls", "--tls-verify", "--tls-ca-path",
        str(host.ca), "--auth", "PLAIN", "--auth-user", USER, "--auth-password", PASSWORD, "--from", "a@example.com", "--to",
        "b@mail.example", "--helo", "client.example",
    ]  # fmt: skip
    run(command)


def test_swaks_pipelines(host: MailHost) -> None:
    command = [
        installed("swaks"), "--server", "localhost", "--port", str(host.ports[25]), "--pipeline", "--from", "a@example.com",
        "--to", "b@mail.example", "--helo", "client.example",
    ]  # fmt: skip
    run(command)


def test_msmtp_submits(host: MailHost, tmp_path: Path) -> None:
    file = tmp_path / "msmtprc"
    file.write_text(
        f"account default\nhost localhost\nport {host.ports[587]}\ntls on\ntls_starttls on\ntls_trust_file {host.ca}\n"
        f"auth plain\nuser {USER}\npassword {PASSWORD}\nfrom a@example.com\n"
    )
    file.chmod(0o600)
    run([installed("msmtp"), "-C", str(file), "b@mail.example"], MESSAGE)


@pytest.mark.parametrize(("protocol", "number"), [("IMAP", 143), ("POP3", 110)])
def test_fetchmail_upgrades(host: MailHost, tmp_path: Path, protocol: str, number: int) -> None:
    file = tmp_path / "fetchmailrc"
    file.write_text(
        f'poll localhost protocol {protocol} service {host.ports[number]} user "{USER}" password "{PASSWORD}" '
        f'sslproto "TLS1.2+" no sslcertck keep mda "cat > /dev/null"\n'
    )
    file.chmod(0o700)
    output = run(
        [installed("fetchmail"), "-f", str(file), "-v", "--check", "--pidfile", str(tmp_path / "pid")],
        check=None,
    )
    assert "> STLS" in output or "STARTTLS" in output, output
    assert "status 1" in output or "status 0" in output, output  # no new mail, or some


def test_getmail_reads(host: MailHost, tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    for folder in ("cur", "new", "tmp"):
        (tmp_path / "mail" / folder).mkdir()
    (tmp_path / "getmailrc").write_text(
        f"[retriever]\ntype = SimpleIMAPSSLRetriever\nserver = localhost\nport = {host.ports[993]}\nusername = {USER}\n"
        f"password = {PASSWORD}\nca_certs = {host.ca}\n\n[destination]\ntype = Maildir\npath = {tmp_path}/mail/\n"
    )
    run([installed("getmail"), "--getmaildir", str(tmp_path), "--rcfile", "getmailrc"])


def test_neomutt_submits(host: MailHost, tmp_path: Path) -> None:
    file = tmp_path / "muttrc"
    file.write_text(
        f"set smtp_url = smtp://{USER}@localhost:{host.ports[587]}/\nset smtp_pass = {PASSWORD}\nset ssl_starttls = yes\n"
        f"set ssl_force_tls = yes\nset certificate_file = {host.ca}\nset ssl_ca_certificates_file = {host.ca}\n"
        f"set from = a@example.com\nset copy = no\n"
    )
    run([installed("neomutt"), "-n", "-F", str(file), "-s", "news", "b@mail.example"], "Hello\n")


def test_sieve_connect_lists(host: MailHost) -> None:
    command = [
        installed("sieve-connect"), "--server", "localhost", "--port", str(host.ports[4190]), "--user", USER, "--nosslverify",
        "--passwordfd", "0", "--list", "--noclearauth",
    ]  # fmt: skip
    run(command, f"{PASSWORD}\n")


# Clients from other package indexes

IMAPFLOW = """
const { ImapFlow } = require('imapflow');
const [port, secure, user, pass] = process.argv.slice(1);
const client = new ImapFlow({ host: 'localhost', port: +port, secure: secure === 'tls', doSTARTTLS: secure !== 'tls',
  auth: { user, pass }, logger: false });
(async () => {
  await client.connect();
  const lock = await client.getMailboxLock('INBOX');
  console.log('exists', client.mailbox.exists, 'secure', client.secureConnection);
  lock.release();
  await client.logout();
})().catch((error) => { console.error(error); process.exit(1); });
"""

NODEMAILER = """
const nodemailer = require('nodemailer');
const [port, secure, user, pass] = process.argv.slice(1);
const transport = nodemailer.createTransport({ host: 'localhost', port: +port, secure: secure === 'tls',
  requireTLS: true, auth: { user, pass } });
transport.sendMail({ from: 'a@example.com', to: 'b@mail.example', subject: 'news', text: 'Hello' })
  .then((info) => console.log(info.response), (error) => { console.error(error); process.exit(1); });
"""


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with imapflow and nodemailer."""
    folder = tmp_path_factory.mktemp("node")
    command = [
        installed("npm"),
        "install",
        "--no-audit",
        "--no-fund",
        "--prefix",
        str(folder),
        *NODE_PACKAGES,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("the registry of npm does not answer")
    if done.returncode:
        pytest.skip(f"npm cannot install: {done.stderr[-300:]}")
    return folder / "node_modules"


NODE_PACKAGES = ("imapflow", "nodemailer")


@pytest.mark.parametrize(("number", "secure"), [(143, "starttls"), (993, "tls")])
def test_imapflow_reads(host: MailHost, node_modules: Path, number: int, secure: str) -> None:
    output = run_node(host, node_modules, IMAPFLOW, str(host.ports[number]), secure, USER, PASSWORD)
    assert "secure true" in output


@pytest.mark.parametrize(("number", "secure"), [(587, "starttls"), (465, "tls")])
def test_nodemailer_submits(host: MailHost, node_modules: Path, number: int, secure: str) -> None:
    output = run_node(host, node_modules, NODEMAILER, str(host.ports[number]), secure, USER, PASSWORD)
    assert "250 2.0.0 Ok" in output


def run_node(host: MailHost, node_modules: Path, script: str, *arguments: str) -> str:
    environment = {**os.environ, "NODE_PATH": str(node_modules), "NODE_EXTRA_CA_CERTS": str(host.ca)}
    command = [installed("node"), "-e", script, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=CLIENT_TIMEOUT_S, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_aioimaplib_reads(host: MailHost, context: ssl.SSLContext, tmp_path: Path) -> None:
    """It knows TLS from the first byte only."""
    script = (
        "import asyncio, ssl, sys, aioimaplib\n"
        "async def main(port, ca, user, password):\n"
        "    context = ssl.create_default_context(cafile=ca)\n"
        "    client = aioimaplib.IMAP4_SSL('localhost', int(port), ssl_context=context)\n"
        "    await client.wait_hello_from_server()\n"
        "    print(await client.login(user, password), await client.select())\n"
        "    await client.logout()\n"
        "asyncio.run(main(*sys.argv[1:]))\n"
    )
    target = tmp_path / "packages"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target), "aioimaplib"]
    if subprocess.run(command, capture_output=True, timeout=120, check=False).returncode:
        pytest.skip("pip cannot install aioimaplib")
    done = subprocess.run(
        [sys.executable, "-c", script, str(host.ports[993]), str(host.ca), USER, PASSWORD],
        capture_output=True, text=True, timeout=CLIENT_TIMEOUT_S, check=False, env={**os.environ, "PYTHONPATH": str(target)},
    )  # fmt: skip
    assert done.stdout.count("result='OK'") == 2, done.stdout + done.stderr


# postscreen


def test_postscreen_is_behind_starttls(host: MailHost, context: ssl.SSLContext) -> None:
    """It gets the PROXY header and the client's EHLO, and passes the session on."""
    with smtplib.SMTP("localhost", host.ports[SCREENED], timeout=CLIENT_TIMEOUT_S) as client:
        client.ehlo("screened.example")
        client.starttls(context=context)
        client.ehlo("screened.example")
        client.sendmail("a@example.com", ["b@mail.example"], MESSAGE)
    host.wait_for(host.postfix, r"postscreen\[\d+\]: CONNECT from \[127\.0\.0\.1\]")
