"""Runs the pages and the series that they show."""

from __future__ import annotations

import trio

from mailproxy.admin.history import History
from mailproxy.admin.http.advice import CurrentAdvice
from mailproxy.admin.http.app import Pages
from mailproxy.admin.http.server import HttpServer
from mailproxy.admin.http.sockets import HttpListener
from mailproxy.admin.http.status import Status
from mailproxy.admin.series import INTERVAL_S, Series
from mailproxy.log import Log
from mailproxy.proxy.supervise import supervise


async def run_http(history: History, listener: HttpListener, log: Log) -> None:
    """Serve HTTP until cancelled."""
    series, advice = Series(history.target), CurrentAdvice(history.target, listener)
    pages = Pages(Status(history, series, advice), listener, log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervise, log, "series", _fill, series)
        nursery.start_soon(supervise, log, "advice", advice.run)
        await HttpServer(pages.app(), listener, log).run()


async def _fill(series: Series) -> None:
    series.begin()
    while True:
        await trio.sleep(INTERVAL_S)
        await series.target.refresh()
        series.add()
