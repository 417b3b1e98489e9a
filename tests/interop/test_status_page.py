"""The status page in Chromium, with real Dovecots behind the proxy."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.interop.conftest import Authority
from tests.support.browser import Browser, chromium
from tests.support.interop.cluster_clients import LoggedInClients
from tests.support.ports import free_port
from tests.support.programs.dovecot_cluster import ClusterProxy, DovecotCluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.peers, pytest.mark.slow]

TOKEN = "0123456789abcdef0123456789abcdef"
NAMES = ("d1", "d2")


# A frontend whose certificate cannot be obtained: nothing listens at the authority's port.
MANAGED = """
[acme.nobody]
directory = "https://127.0.0.1:1/directory"
terms_agreed = true
storage = "{storage}"

[frontends.managed]
protocol = "imap"
backend = "clear"
tls = {{ acme = "nobody", names = ["imap.example.com"] }}
bind = [{{ address = "127.0.0.1:{port}", mode = "tls" }}]
"""


class PageProxy(ClusterProxy):
    """A proxy with a status page."""

    def __init__(self, cluster: DovecotCluster, folder: Path, *, has_token: bool = True) -> None:
        port = free_port()
        token = folder / "token"
        token.write_text(f"{TOKEN}\n")
        token.chmod(0o600)
        more = f'[admin]\nhttp = "127.0.0.1:{port}"\n' + (f'token_file = "{token}"\n' if has_token else "")
        more += MANAGED.format(storage=folder / "acme", port=free_port())
        super().__init__(cluster, NAMES, folder, more=more)
        self._listens = [*self._listens, ("127.0.0.1", port)]
        self.url = f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DovecotCluster]:
    with DovecotCluster(Authority.new(tmp_path_factory.mktemp("cluster")), *NAMES) as cluster:
        yield cluster


@pytest.fixture(scope="module", autouse=True)
def early_proxy(cluster: DovecotCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageProxy]:
    """Return a proxy that runs from the first test on. It adds a point to its charts every 30 s."""
    with PageProxy(cluster, tmp_path_factory.mktemp("early")) as proxy:
        yield proxy


@pytest.fixture
def proxy(cluster: DovecotCluster, tmp_path: Path) -> Iterator[PageProxy]:
    cluster.restore()
    with PageProxy(cluster, tmp_path) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def chromium_browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(proxy: PageProxy, chromium_browser: Browser) -> Browser:
    """Return a browser that has drawn the page, with all servers UP."""
    chromium_browser.open(proxy.url)
    chromium_browser.wait_until(
        lambda: states(chromium_browser) == {"UP"} and chromium_browser.text("#connection") == "Live",
        "all servers are up",
    )
    return chromium_browser


def states(page: Browser, name: str = "") -> set[str]:
    """Return the states of the servers with this name in all backends."""
    return {row["State"] for server, row in page.rows("servers").items() if server.endswith(name)}


def unlock(page: Browser, token: str = TOKEN) -> None:
    page.find("#token").clear()
    page.find("#token").send_keys(token, Keys.ENTER)


def unlock_and_wait(page: Browser) -> None:
    unlock(page)
    page.wait_until(lambda: page.visible("#servers button"), "the servers have buttons")


def test_killed_server_is_shown_and_announced(page: Browser, cluster: DovecotCluster) -> None:
    cluster["d1"].kill()
    page.wait_until(lambda: states(page, "/d1") == {"DOWN"}, "d1 is down")
    assert states(page, "/d2") == {"UP"}
    page.wait_until(lambda: "Server clear/d1 is DOWN" in page.find("#events").text, "the change is listed")
    assert "is DOWN." in page.text("#news")
    assert "down" in page.driver.title
    assert "Connection refused" in page.rows("servers")["clear/d1"]["Last check"]
    cluster["d1"].start()
    page.wait_until(lambda: states(page) == {"UP"}, "d1 is up again")
    assert page.driver.title == "mailproxy"
    assert page.console() == []


def test_drain_on_the_page_ends_sessions(page: Browser, proxy: PageProxy) -> None:
    unlock_and_wait(page)
    with LoggedInClients(proxy, 8) as clients:
        at_d1 = [client for client in clients.at("d1") if client.port == proxy.ports["secure"]]
        assert at_d1
        page.wait_until(
            lambda: page.rows("servers")["secure/d1"]["Sessions"] == str(len(at_d1)), "sessions are counted"
        )
        page.press("Drain and end…: secure/d1, its sessions end")
        page.find("#deadline").clear()
        page.find("#deadline").send_keys("5s", Keys.ENTER)
        for client in at_d1:
            client.wait_for_end()
        page.wait_until(lambda: states(page, "secure/d1") == {"DRAIN"}, "d1 drains")
        page.wait_until(lambda: page.rows("servers")["secure/d1"]["Sessions"] == "0", "its sessions ended")
        page.wait_until(lambda: "secure/d1" in page.find("#ends").text, "the ends are listed")
        assert "the operator drained the server" in page.find("#ends").text
        for client in clients.at("d2"):
            assert client.noop()[0] == "OK"
    page.press("Ready: secure/d1")
    page.wait_until(lambda: states(page, "secure/d1") == {"UP"}, "d1 is ready again")
    page.press("Maintenance: secure/d1")
    page.wait_until(lambda: states(page, "secure/d1") == {"MAINT"}, "d1 is in maintenance")
    assert page.console() == []


def test_session_is_ended_on_the_page(page: Browser, proxy: PageProxy) -> None:
    unlock_and_wait(page)
    with LoggedInClients(proxy, 2) as clients:
        page.press("List sessions")
        page.wait_until(lambda: len(page.rows("sessions")) == 2, "both sessions are listed")
        (session,) = [
            name for name, row in page.rows("sessions").items() if row["Server"].startswith("clear/")
        ]
        page.press(f"End: session {session}")
        page.press("End the session")
        page.wait_until(
            lambda: set(page.rows("sessions")) and session not in page.rows("sessions"), "it ended"
        )
        (ended,) = [each for each in clients._clients if each.port == proxy.ports["clear"]]
        ended.wait_for_end()
        (other,) = [each for each in clients._clients if each is not ended]
        assert other.noop()[0] == "OK"


def test_certificate_that_cannot_be_obtained_is_shown(page: Browser) -> None:
    page.wait_until(lambda: "cannot be reached" in page.find("#acme").text, "the failure is shown")
    row = page.rows("acme")["imap.example.com"]
    assert (row["Key"], row["Expires"], row["From"]) == ("ecdsa-p256", "no certificate yet", "acme.nobody")
    assert all(row[title][-1].isdigit() for title in ("Last attempt", "Next attempt"))
    assert page.console() == []


def test_page_is_read_only_without_the_token(page: Browser) -> None:
    assert [button.text for button in page.visible("button")] == ["Unlock"]
    unlock(page, "wrong-token-wrong-token")
    page.wait_until(lambda: page.text("#result") == "The token is wrong.", "the refusal in words")
    assert [button.text for button in page.visible("button")] == ["Unlock"]
    unlock_and_wait(page)
    page.driver.refresh()
    page.wait_until(lambda: page.visible("#servers button"), "the tab has kept the token")
    page.press("Forget the token")
    page.wait_until(lambda: not page.visible("#servers button"), "the buttons are gone")
    assert page.driver.execute_script("return sessionStorage.length") == 0


def test_proxy_without_commands_says_so(
    cluster: DovecotCluster, chromium_browser: Browser, tmp_path: Path
) -> None:
    with PageProxy(cluster, tmp_path, has_token=False) as proxy:
        chromium_browser.open(proxy.url)
        unlock(chromium_browser)
        chromium_browser.wait_until(
            lambda: "takes no commands" in chromium_browser.text("#result"), "the reason in words"
        )
        assert chromium_browser.visible("#servers button") == []


def test_ended_proxy_is_reported(cluster: DovecotCluster, chromium_browser: Browser, tmp_path: Path) -> None:
    with PageProxy(cluster, tmp_path) as proxy:
        chromium_browser.open(proxy.url)
        chromium_browser.wait_until(lambda: chromium_browser.text("#connection") == "Live", "it is live")
    chromium_browser.wait_until(
        lambda: chromium_browser.text("#connection").startswith("The proxy does not answer. What you see is"),
        "the page says that the proxy is gone",
    )


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_axe_finds_nothing(
    page: Browser, proxy: PageProxy, cluster: DovecotCluster, width: int, *, is_dark: bool
) -> None:
    if is_dark:
        page.use_dark_mode()
    if width < 1280:
        page.use_width(width)
    unlock_and_wait(page)
    with LoggedInClients(proxy, 2):
        page.press("List sessions")
        page.wait_until(lambda: page.rows("sessions"), "sessions are listed")
    cluster["d1"].kill()
    page.wait_until(lambda: states(page, "/d1") == {"DOWN"} and page.rows("ends"), "all tables have rows")
    assert page.violations() == []
    page.press("Drain and end…: secure/d2, its sessions end")
    assert page.violations() == []
    assert page.console() == []


def test_phone_needs_no_horizontal_scrolling(page: Browser) -> None:
    page.use_width(360)
    unlock_and_wait(page)
    script = "return [document.documentElement.scrollWidth, window.innerWidth]"
    assert page.driver.execute_script(script) == [360, 360]


def test_keyboard_is_enough(page: Browser) -> None:
    def press(*keys: str) -> None:
        ActionChains(page.driver).send_keys(*keys).perform()

    def focused() -> str:
        return page.driver.switch_to.active_element.accessible_name

    def tab_to(name: str) -> None:
        for _ in range(80):
            if focused() == name:
                return
            press(Keys.TAB)
        raise AssertionError(f"Tab does not reach {name}")

    press(Keys.TAB)
    assert focused() == "Skip to the servers"
    tab_to("Token")
    press(TOKEN, Keys.ENTER)
    page.wait_until(lambda: page.visible("#servers button"), "the servers have buttons")
    page.find("body").send_keys(Keys.HOME)
    page.driver.execute_script("document.activeElement.blur()")
    tab_to("Drain: clear/d2, its sessions go on")
    press(Keys.ENTER)
    page.wait_until(lambda: states(page, "clear/d2") == {"DRAIN"}, "it drains")
    assert focused() == "Drain: clear/d2, its sessions go on"  # which the new figures have not moved
    tab_to("Drain and end…: clear/d2, its sessions end")
    press(Keys.ENTER)
    assert page.visible("#question")
    press(Keys.ESCAPE)
    assert not page.visible("#question")
    assert focused() == "Drain and end…: clear/d2, its sessions end"


def test_hidden_page_asks_for_nothing(page: Browser) -> None:
    def requests() -> int:
        script = 'return performance.getEntriesByType("resource").filter((e) => /status/.test(e.name)).length'
        count: int = page.driver.execute_script(script)
        return count

    def set_hidden(value: str) -> None:
        page.driver.execute_script(
            f'Object.defineProperty(document, "hidden", {{ value: {value}, configurable: true }});'
            'document.dispatchEvent(new Event("visibilitychange"))'
        )

    set_hidden("true")
    time.sleep(3)  # a request that is under way ends
    before = requests()
    time.sleep(3)  # longer than the interval
    assert requests() == before
    set_hidden("false")
    page.wait_until(lambda: requests() >= before + 2, "the page asks again")


def test_charts_have_their_figures_as_text(early_proxy: PageProxy, chromium_browser: Browser) -> None:
    page = chromium_browser
    page.open(early_proxy.url)
    page.wait_until(lambda: len(page.visible("svg[role=img]")) == 4, "the charts are drawn")
    label = 'return document.querySelector("svg").getAttribute("aria-label")'
    page.wait_until(
        lambda: page.driver.execute_script(label).endswith(": 0 now, 0 at most"), "the first point", 60
    )
    assert (page.find("svg path").get_attribute("d") or "").startswith("M")
