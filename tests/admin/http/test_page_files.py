"""The files of the status page keep to its Content-Security-Policy, and set text from the proxy as text."""

from __future__ import annotations

import re
from importlib.resources import files

PAGE = {file.name: file.read_text("utf-8") for file in (files("mailproxy.admin.http") / "page").iterdir()}
SCRIPTS = {name: text for name, text in PAGE.items() if name.endswith(".js")}


def test_html_has_no_script_or_style_of_its_own() -> None:
    html = PAGE["index.html"]
    assert re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL) == [""]
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", html)


def test_everything_is_loaded_from_the_proxy() -> None:
    for name, text in PAGE.items():
        addresses = re.findall(
            r"""(?:https?:)?//[\w.]+\.\w+""", text.replace("http://www.w3.org/2000/svg", "")
        )
        assert addresses == [], name
    paths = re.findall(r'(?:src|href)="/([\w.]+\.\w+)"', PAGE["index.html"])
    imports = [path for text in SCRIPTS.values() for path in re.findall(r'from "\./([\w.]+)"', text)]
    assert {*paths, *imports, "index.html"} == set(PAGE)


def test_scripts_set_text_only() -> None:
    for name, text in SCRIPTS.items():
        unsafe = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(|setHTML"
        assert re.findall(unsafe, text) == [], name


def test_elements_that_scripts_use_exist() -> None:
    ids = re.findall(r'\sid="([\w-]+)"', PAGE["index.html"])
    assert len(ids) == len(set(ids))
    used = {each for text in SCRIPTS.values() for each in re.findall(r'byId\("([\w-]+)"\)', text)}
    assert used <= set(ids)
