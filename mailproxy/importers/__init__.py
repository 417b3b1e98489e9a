"""Importers: the configuration of HAProxy, nginx, Caddy or Traefik as one of mailproxy.

An importer reads files of another program into a draft: mailproxy's tables, with the place that each value
comes from. Everything that follows is the same for all programs.

Modules, in the order in which files become a text:
    files, place: The files, within bounds, and places in them.
    haproxy, nginx, caddy, traefik: The readers, each with its tables of directives.
    node: Values of JSON, YAML and TOML with their places.
    directive: What a table of directives is; the documentation's tables are made from it.
    draft, context, report: The draft, and what is to report.
    ports, names, times: Protocols by port, names, and the times of nginx and Caddy.
    models: The model's keys, and what this version supports.
    complete: What mailproxy demands, and other programs do without.
    traps: Values that are traps for mail.
    inherit, trim: Shared values written once; defaults left out.
    writer: The draft as TOML.
    accept: Loads the text and takes out what mailproxy refuses.
    side_by_side: Source and result in two columns.
    run: All of it.
"""

from mailproxy.importers.report import table as report_table
from mailproxy.importers.run import PROGRAMS, Result, import_files
from mailproxy.importers.side_by_side import side_by_side

__all__ = ["PROGRAMS", "Result", "import_files", "report_table", "side_by_side"]
