"""Advice on configurations that are allowed and probably wrong, and better answers to common mistakes.

Modules:
    loops: Servers that are binds of the same process.
    acceptance: The conditions under which such a bind accepts the connection.
    ports: The registered ports of mail protocols.
    foreign_words: Keys and values of HAProxy, nginx and Caddy, with what to write instead.
    hints: Looks up such a word, and shows the answer as it is written in the table that has the word.
    unknown_keys: The remedy for an unknown key.
"""
