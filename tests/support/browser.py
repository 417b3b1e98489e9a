"""Debian's Chromium without a window, and what the tests read from the page in it."""

from __future__ import annotations

from contextlib import contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.support.programs.program import TIMEOUT_S, find

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from selenium.webdriver.remote.webelement import WebElement

_RUN_AXE = (
    "axe.run().then(arguments[0], (error) => arguments[0]({violations: [{id: String(error), nodes: []}]}))"
)


class Browser:
    """A browser with one page."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Load a page without what the browser has stored for it, and forget earlier messages."""
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        self.driver.get("about:blank")
        self.console()
        self.driver.get(url)
        self.driver.execute_script("sessionStorage.clear()")
        self.driver.get(url)

    def use_dark_mode(self) -> None:
        features = [{"name": "prefers-color-scheme", "value": "dark"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def use_width(self, width: int) -> None:
        """Show the page on a phone this wide, in CSS pixels."""
        metrics = {"width": width, "height": 740, "deviceScaleFactor": 2, "mobile": True}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def console(self) -> list[dict[str, Any]]:
        """Return new warnings and errors of the console."""
        entries: list[dict[str, Any]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]  # selenium's
        return [entry for entry in entries if entry["level"] in ("WARNING", "SEVERE")]

    def violations(self) -> list[str]:
        """Return what axe finds: the rule and the elements."""
        self.driver.execute_script((files("axe_core_python") / "axe.min.js").read_text("utf-8"))
        result = self.driver.execute_async_script(_RUN_AXE)
        return [f"{each['id']}: {[node['html'] for node in each['nodes']]}" for each in result["violations"]]

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def visible(self, selector: str) -> list[WebElement]:
        elements = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return [each for each in elements if each.is_displayed()]

    def rows(self, table: str) -> dict[str, dict[str, str]]:
        """Return the rows of a table: by the first column, the cells by column title."""
        cells: list[list[str]] = self.driver.execute_script(
            "return [...document.getElementById(arguments[0]).rows]"
            ".map((row) => [...row.cells].map((cell) => cell.textContent))",
            table,
        )
        if not cells:
            return {}
        titles, *rows = cells
        return {row[0]: dict(zip(titles, row, strict=True)) for row in rows}

    def press(self, label: str) -> None:
        """Press the button with this accessible name."""
        (button,) = [each for each in self.visible("button") if each.accessible_name == label]
        button.click()

    def wait_until(self, condition: Callable[[], Any], what: str, timeout_s: float = TIMEOUT_S) -> None:
        WebDriverWait(self.driver, timeout_s, 0.05).until(lambda _: condition(), what)


@contextmanager
def chromium() -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = find("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(find("chromedriver")))
    try:
        driver.set_script_timeout(TIMEOUT_S * 3)  # axe takes seconds on a busy machine
        yield Browser(driver)
    finally:
        driver.quit()
