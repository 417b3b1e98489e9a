"""Transcripts of health checks with real servers.

Entries with a full version number were recorded, and long lists are shortened. The others are composed from known
answers of such servers.
"""

from __future__ import annotations

from collections.abc import Callable

from mailproxy.protocol.checks.imap import ImapCheck
from mailproxy.protocol.checks.mail import MailCheck
from mailproxy.protocol.checks.pop3 import Pop3Check
from mailproxy.protocol.checks.sieve import SieveCheck
from mailproxy.protocol.checks.smtp import LmtpCheck, SmtpCheck

RecordedCheck = tuple[Callable[[], MailCheck], str]

_DOVECOT_SIEVE = '''\
S: "IMPLEMENTATION" "Dovecot (Debian) Pigeonhole"
S: "SIEVE" "fileinto reject envelope encoded-character vacation subaddress comparator-i;ascii-numeric relational"
S: "NOTIFY" "mailto"
S: "SASL" "PLAIN LOGIN"'''

RECORDED_CHECKS: dict[str, RecordedCheck] = {
    "Dovecot 2.3.19, IMAP": (
        ImapCheck,
        """
S: * OK [CAPABILITY IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ AUTH=PLAIN AUTH=LOGIN] Dovecot (Debian) ready.
C: a1 CAPABILITY
S: * CAPABILITY IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ AUTH=PLAIN AUTH=LOGIN
S: a1 OK Pre-login capabilities listed, post-login capabilities have more.
C: a2 LOGOUT
S: * BYE Logging out
S: a2 OK Logout completed.
= Layer7 check passed, code: 0
""",
    ),
    "Dovecot 2.3.19, IMAP with STARTTLS": (
        lambda: ImapCheck(starttls=True),
        """
S: * OK [CAPABILITY IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ STARTTLS AUTH=PLAIN AUTH=LOGIN] Dovecot (Debian) ready.
C: a1 CAPABILITY
S: * CAPABILITY IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ STARTTLS AUTH=PLAIN AUTH=LOGIN
S: a1 OK Pre-login capabilities listed, post-login capabilities have more.
C: a2 STARTTLS
S: a2 OK Begin TLS negotiation now.
(TLS)
C: a3 CAPABILITY
S: * CAPABILITY IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ AUTH=PLAIN AUTH=LOGIN
S: a3 OK Pre-login capabilities listed, post-login capabilities have more.
C: a4 LOGOUT
S: * BYE Logging out
S: a4 OK Logout completed.
= Layer7 check passed, code: 0
""",
    ),
    "Cyrus 3, IMAP": (
        ImapCheck,
        """
S: * OK [CAPABILITY IMAP4rev1 LITERAL+ ID ENABLE AUTH=PLAIN SASL-IR] mail.example Cyrus IMAP 3.6.1 server ready
C: a1 CAPABILITY
S: * CAPABILITY IMAP4rev1 LITERAL+ ID ENABLE AUTH=PLAIN SASL-IR ACL ANNOTATE-EXPERIMENT-1 CATENATE QUOTA=STORAGE
S: a1 OK Completed
C: a2 LOGOUT
S: * BYE LOGOUT received
S: a2 OK Completed
= Layer7 check passed, code: 0
""",
    ),
    "Exchange, IMAP": (
        ImapCheck,
        """
S: * OK The Microsoft Exchange IMAP4 service is ready. [RQBYADAAMQAuAGUAeABhAG0AcABsAGUA]
C: a1 CAPABILITY
S: * CAPABILITY IMAP4 IMAP4rev1 AUTH=NTLM AUTH=GSSAPI AUTH=PLAIN UIDPLUS CHILDREN IDLE NAMESPACE LITERAL+
S: a1 OK CAPABILITY completed.
C: a2 LOGOUT
S: * BYE Microsoft Exchange Server IMAP4 server signing off.
S: a2 OK LOGOUT completed.
= Layer7 check passed, code: 0
""",
    ),
    "Courier, IMAP": (
        ImapCheck,
        """
S: * OK [CAPABILITY IMAP4rev1 UIDPLUS CHILDREN NAMESPACE THREAD=REFERENCES SORT QUOTA IDLE ACL ACL2=UNION] Courier-IMAP ready. Copyright 1998-2022 Double Precision, Inc.  See COPYING for distribution information.
C: a1 CAPABILITY
S: * CAPABILITY IMAP4rev1 UIDPLUS CHILDREN NAMESPACE THREAD=REFERENCES SORT QUOTA IDLE ACL ACL2=UNION
S: a1 OK CAPABILITY completed
C: a2 LOGOUT
S: * BYE Courier-IMAP server shutting down
S: a2 OK LOGOUT completed
= Layer7 check passed, code: 0
""",
    ),
    "Dovecot 2.3.19, POP3": (
        Pop3Check,
        """
S: +OK Dovecot (Debian) ready.
C: CAPA
S: +OK
S: CAPA
S: TOP
S: UIDL
S: RESP-CODES
S: PIPELINING
S: AUTH-RESP-CODE
S: USER
S: SASL PLAIN LOGIN
S: .
C: QUIT
S: +OK Logging out
= Layer7 check passed, code: 0
""",
    ),
    "Dovecot 2.3.19, POP3 with STLS": (
        lambda: Pop3Check(starttls=True),
        """
S: +OK Dovecot (Debian) ready.
C: CAPA
S: +OK
S: CAPA
S: TOP
S: STLS
S: .
C: STLS
S: +OK Begin TLS negotiation now.
(TLS)
C: CAPA
S: +OK
S: CAPA
S: TOP
S: USER
S: SASL PLAIN LOGIN
S: .
C: QUIT
S: +OK Logging out
= Layer7 check passed, code: 0
""",
    ),
    "Cyrus 3, POP3": (
        Pop3Check,
        """
S: +OK mail.example Cyrus POP3 3.6.1 server ready <2917265342.1795355182@mail.example>
C: CAPA
S: +OK List of capabilities follows
S: SASL PLAIN
S: EXPIRE NEVER
S: LOGIN-DELAY 0
S: TOP
S: UIDL
S: PIPELINING
S: RESP-CODES
S: AUTH-RESP-CODE
S: USER
S: IMPLEMENTATION Cyrus POP3 3.6.1
S: .
C: QUIT
S: +OK
= Layer7 check passed, code: 0
""",
    ),
    "Exchange, POP3": (
        Pop3Check,
        """
S: +OK The Microsoft Exchange POP3 service is ready. [RQBYADAAMQAuAGUAeABhAG0AcABsAGUA]
C: CAPA
S: +OK
S: TOP
S: UIDL
S: SASL PLAIN
S: USER
S: .
C: QUIT
S: +OK Microsoft Exchange Server POP3 server signing off.
= Layer7 check passed, code: 0
""",
    ),
    "Courier, POP3": (
        Pop3Check,
        """
S: +OK Hello there. <12345.1795355182@localhost.localdomain>
C: CAPA
S: +OK Here's what I can do:
S: TOP
S: USER
S: LOGIN-DELAY 10
S: PIPELINING
S: UIDL
S: IMPLEMENTATION Courier Mail Server
S: .
C: QUIT
S: +OK Better luck next time.
= Layer7 check passed, code: 0
""",
    ),
    "qmail, POP3 without CAPA": (
        Pop3Check,
        """
S: +OK <12345.1795355182@mail.example>
C: CAPA
S: -ERR authorization first
C: QUIT
S: +OK 
= Layer7 check passed, code: 0
""",  # noqa: W291 - qmail's is followed by a space
    ),
    "Postfix 3.7.11, SMTP": (
        lambda: SmtpCheck("check.example"),
        """
S: 220 postfix.example ESMTP Postfix
C: EHLO check.example
S: 250-postfix.example
S: 250-PIPELINING
S: 250-SIZE 10240000
S: 250-VRFY
S: 250-ETRN
S: 250-ENHANCEDSTATUSCODES
S: 250-8BITMIME
S: 250-DSN
S: 250 CHUNKING
C: QUIT
S: 221 2.0.0 Bye
= Layer7 check passed, code: 0
""",
    ),
    "postscreen": (
        SmtpCheck,
        """
S: 220-mail.example ESMTP do not talk yet
S: 220 mail.example ESMTP Postfix
C: EHLO localhost
S: 250-mail.example
S: 250 8BITMIME
C: QUIT
S: 221 2.0.0 Bye
= Layer7 check passed, code: 0
""",
    ),
    "Dovecot 2.3.19, submission with STARTTLS": (
        lambda: SmtpCheck(starttls=True),
        """
S: 220 vm Dovecot (Debian) ready.
C: EHLO localhost
S: 250-vm
S: 250-8BITMIME
S: 250-AUTH PLAIN LOGIN
S: 250-BURL imap
S: 250-CHUNKING
S: 250-ENHANCEDSTATUSCODES
S: 250-SIZE
S: 250-STARTTLS
S: 250 PIPELINING
C: STARTTLS
S: 220 2.0.0 Begin TLS negotiation now.
(TLS)
C: EHLO localhost
S: 250-vm
S: 250-8BITMIME
S: 250-AUTH PLAIN LOGIN
S: 250-BURL imap
S: 250-CHUNKING
S: 250-ENHANCEDSTATUSCODES
S: 250-SIZE
S: 250 PIPELINING
C: QUIT
S: 221 2.0.0 Bye
= Layer7 check passed, code: 0
""",
    ),
    "Exchange, SMTP": (
        SmtpCheck,
        """
S: 220 EX01.example Microsoft ESMTP MAIL Service ready at Sun, 22 Nov 2026 14:46:22 +0100
C: EHLO localhost
S: 250-EX01.example Hello [192.0.2.1]
S: 250-SIZE 37748736
S: 250-PIPELINING
S: 250-DSN
S: 250-ENHANCEDSTATUSCODES
S: 250-STARTTLS
S: 250-X-ANONYMOUSTLS
S: 250-AUTH NTLM
S: 250-8BITMIME
S: 250-BINARYMIME
S: 250-CHUNKING
S: 250 XRDST
C: QUIT
S: 221 2.0.0 Service closing transmission channel
= Layer7 check passed, code: 0
""",
    ),
    "SMTP before EHLO": (
        SmtpCheck,
        """
S: 220 old.example
C: EHLO localhost
S: 502 Command not implemented
C: HELO localhost
S: 250 old.example
C: QUIT
S: 221
= Layer7 check passed, code: 0
""",
    ),
    "Dovecot, LMTP": (
        LmtpCheck,
        """
S: 220 mail.example Dovecot (Debian) ready.
C: LHLO localhost
S: 250-mail.example
S: 250-8BITMIME
S: 250-CHUNKING
S: 250-ENHANCEDSTATUSCODES
S: 250-PIPELINING
S: 250 STARTTLS
C: QUIT
S: 221 2.0.0 Bye
= Layer7 check passed, code: 0
""",
    ),
    "Dovecot 2.3.19, ManageSieve": (
        SieveCheck,
        f"""
{_DOVECOT_SIEVE}
S: "VERSION" "1.0"
S: OK "Dovecot (Debian) ready."
C: LOGOUT
S: OK "Logout completed."
= Layer7 check passed, code: 0
""",
    ),
    "Dovecot 2.3.19, ManageSieve with STARTTLS": (
        lambda: SieveCheck(starttls=True),
        f"""
{_DOVECOT_SIEVE}
S: "STARTTLS"
S: "VERSION" "1.0"
S: OK "Dovecot (Debian) ready."
C: STARTTLS
S: OK "Begin TLS negotiation now."
(TLS)
{_DOVECOT_SIEVE}
S: "VERSION" "1.0"
S: OK "TLS negotiation successful."
C: LOGOUT
S: OK "Logout completed."
= Layer7 check passed, code: 0
""",
    ),
    "Cyrus 3, ManageSieve": (
        SieveCheck,
        """
S: "IMPLEMENTATION" "Cyrus timsieved 3.6.1"
S: "VERSION" "1.0"
S: "SASL" "PLAIN"
S: "SIEVE" "comparator-i;ascii-numeric fileinto reject vacation vacation-seconds imapflags notify envelope"
S: "UNAUTHENTICATE"
S: OK
C: LOGOUT
S: OK "Logout Complete"
= Layer7 check passed, code: 0
""",
    ),
}
