"""``mailproxy top``: a live view of the running proxy in a terminal. It knows the admin socket alone.

Modules, in reading order:
    picture: what the admin socket answers, as values.
    tables: these values as rows of text, for both outputs.
    text: one snapshot for terminals without cursor control.
    actions: what keys do to servers, frontends and sessions.
    app: the program on the screen, with textual.
    screens: its dialogs.
"""
