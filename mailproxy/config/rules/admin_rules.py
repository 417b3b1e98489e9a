"""Rules for the admin sockets and HTTP."""

from __future__ import annotations

from mailproxy.address import UNIX_PATH_MAX, TcpAddress
from mailproxy.config import model
from mailproxy.config.diagnostics import Diagnostics
from mailproxy.config.layers import Layer, Table
from mailproxy.config.path import ROOT_PATH, ConfigPath

_ADMIN = ROOT_PATH / "admin"
_OTHERS_MAY_WRITE = 0o002


def check_sockets(admin: model.Admin, table: Table, diagnostics: Diagnostics) -> None:
    """Check that each admin socket has one address, which is this machine's, and is not open to everybody."""
    known: dict[str, ConfigPath] = {}
    if admin.socket is not None:
        _check_path(str(admin.socket), _ADMIN / "socket", diagnostics)
        _check_mode(admin.mode, _ADMIN / "mode", diagnostics)
        known[str(admin.socket)] = _ADMIN / "socket"
    for own, each in zip(Layer(_ADMIN, table).items("sockets"), admin.sockets, strict=True):
        _check_socket(each, own, diagnostics)
        address = str(each.path or each.address or "")
        if address in known:
            diagnostics.add(own.path, f"{address} is the address of {known[address]} already")
        elif address:
            known[address] = own.path


def check_http(admin: model.Admin, table: Table, diagnostics: Diagnostics) -> None:
    """Check that HTTP has a TCP address, and is protected where others than this machine's users reach it."""
    for name in ("tls", "token_file"):
        if admin.http is None and name in table and not diagnostics.is_invalid(_ADMIN / "http"):
            diagnostics.add(_ADMIN / name, "has no effect without http")
    if admin.tls is not None and not admin.tls.certificates:
        diagnostics.add(_ADMIN / "tls", "has no certificates")
    if admin.http is None:
        return
    if not isinstance(admin.http, TcpAddress) or admin.http.port is None:
        diagnostics.add(_ADMIN / "http", f"{admin.http} is no address with a port, such as 127.0.0.1:8405")
    elif not admin.is_http_local and (admin.tls is None or admin.token_file is None):
        fact = (
            f"{admin.http} can be reached from other machines: give tls and token_file, or a loopback address"
        )
        diagnostics.add(_ADMIN / "http", fact)


def _check_socket(each: model.AdminSocket, own: Layer, diagnostics: Diagnostics) -> None:
    has_path, has_address = "path" in own.table, "address" in own.table
    if diagnostics.is_any_invalid((own.path, own.path / "path", own.path / "address")):
        return
    if has_path == has_address:
        fact = (
            "has both path and address: one socket has one of them"
            if has_path
            else "has neither path nor address"
        )
        diagnostics.add(own.path, fact)
    elif has_path:
        _check_path(str(each.path), own.path / "path", diagnostics)
        _check_mode(each.mode, own.path / "mode", diagnostics)
    else:
        _check_address(each, own, diagnostics)


def _check_address(each: model.AdminSocket, own: Layer, diagnostics: Diagnostics) -> None:
    address = each.address
    if not isinstance(address, TcpAddress) or not address.is_loopback:
        fact = f"{address} is no loopback address: everybody who can connect may use the socket, so only 127.0.0.1 or ::1"
        diagnostics.add(own.path / "address", fact)
    for name in ("mode", "user", "group"):
        if name in own.table:
            diagnostics.add(own.path / name, "has no meaning for a TCP address")


def _check_path(path: str, key: ConfigPath, diagnostics: Diagnostics) -> None:
    if len(path.encode()) > UNIX_PATH_MAX:
        diagnostics.add(key, f'"{path}" is longer than the {UNIX_PATH_MAX} bytes that a socket can have')


def _check_mode(mode: int, key: ConfigPath, diagnostics: Diagnostics) -> None:
    if mode & _OTHERS_MAY_WRITE:
        diagnostics.add(
            key, f'"{mode:04o}" lets every user of this machine control the proxy: "0660" or "0600"'
        )
