"""The dialogues of health checks, as pure state machines: bytes in, bytes to send and a result out.

Modules, in reading order:
    result: HAProxy's check codes and their texts.
    dialogue: The interface of all dialogues, and how to drive one.
    mail: The state machine of the mail protocols; imap, pop3, smtp and sieve add commands and answers.
    script: The state machine of a script in the configuration.
    registry: The dialogue of each protocol.
"""
