"""The dialogues of health checks, as pure machines: bytes in, bytes out and a result.

Modules, in reading order:
    result: HAProxy's codes and sentences.
    dialogue: what every machine offers.
    mail: the machine that all mail protocols share; imap, pop3, smtp and sieve fill it in.
    script: the machine of the operator's own steps.
    registry: which protocol has which machine.
"""
