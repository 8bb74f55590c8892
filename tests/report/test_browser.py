"""The page in a real browser: the slider moves the tree, the diff is right, the console is silent."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tzfs
from tzfs.report import Badge, Blobs, Card, Report, Row, collect, render

pytestmark = pytest.mark.browser

MINUS = "\N{MINUS SIGN}"
CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
EVIL = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Return a page about a filesystem with three snapshots and a present."""
    store = tzfs.Store.open(tmp_path / "store", create=True)
    store.create("lab")
    blobs = Blobs()
    with store.open_filesystem("lab") as fs:
        fs.write_text("main.py", "one\ntwo\nthree\n")
        fs.snapshot("first")
        fs.write_text("main.py", "one\n2\nthree\nfour\n")
        fs.write_text(EVIL, EVIL)
        fs.snapshot("second")
        fs.remove("main.py")
        fs.snapshot("third")
        history = collect(fs, blobs)
    rows = [Row("lab", EVIL, "field", [Badge("done", "good")], 0), Row("other", "b", "c", [], None)]
    out = tmp_path / "out.html"
    out.write_text(render(Report("History", EVIL, [Card("3", "snapshots")], [history], blobs.contents, rows)))
    return out


@pytest.fixture
def browser(tmp_path: Path, page: Path) -> Iterator[Any]:
    """Return a browser that shows the page; its console holds nothing at the end."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("chromium or chromedriver is missing: the page is not tried in a browser")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is missing: the extra 'browser'")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-component-update", "--no-first-run", "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,900",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        driver.get(page.as_uri())
        yield driver
        assert driver.get_log("browser") == []
    finally:
        driver.quit()


def slide(browser: Any, step: int) -> None:  # noqa: ANN401 selenium has no types
    script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
    browser.execute_script(script, browser.find_element("id", "slider"), step)


def tree(browser: Any) -> list[tuple[str, str]]:  # noqa: ANN401
    return [
        (button.get_attribute("class"), button.find_element("class name", "name").text)
        for button in browser.find_elements("css selector", "#tree button")
    ]


def view(browser: Any) -> list[str]:  # noqa: ANN401
    return [
        line.find_element("class name", "s").text + line.find_element("class name", "c").text
        for line in browser.find_elements("css selector", "#view .l")
    ]


def test_the_slider_moves_the_tree_and_the_difference_is_right(browser: Any) -> None:  # noqa: ANN401
    slide(browser, 0)
    assert browser.find_element("id", "label").text == "first"
    assert tree(browser) == [("added", "main.py")]
    slide(browser, 1)
    assert tree(browser) == [("added", EVIL), ("changed", "main.py")]
    browser.find_element("css selector", "#tree [data-path='main.py']").click()
    assert view(browser) == ["one", f"{MINUS}two", "+2", "three", "+four"]
    browser.find_element("id", "tab-file").click()
    assert view(browser) == ["one", "2", "three", "four"]
    slide(browser, 2)
    assert tree(browser) == [("", EVIL), ("gone", "main.py")]
    assert view(browser) == [MINUS + line for line in ("one", "2", "three", "four")]
    assert browser.title == "History"


def test_the_page_works_by_keyboard_in_both_themes_and_on_a_phone(browser: Any) -> None:  # noqa: ANN401
    body = browser.find_element("tag name", "body")
    label = browser.find_element("id", "label")
    assert label.text == "third"
    body.send_keys("\ue012")  # left
    assert label.text == "second"
    body.send_keys("\ue015")  # down
    assert browser.find_element("id", "path").text == "/main.py"
    root = browser.find_element("tag name", "html")
    before = root.get_attribute("data-theme")
    body.send_keys("t")
    assert {before, root.get_attribute("data-theme")} == {"light", "dark"}
    # A window of a headless browser has at least 500 pixels; a phone as it is emulated may have less.
    for width in (768, 390, 320):
        screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        # The layout's width; `innerWidth` is what the emulated screen happens to be zoomed to.
        assert browser.execute_script("return document.documentElement.clientWidth") == width
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_the_table_filters_and_opens_the_explorer(browser: Any) -> None:  # noqa: ANN401
    rows = browser.find_elements("css selector", "#rows tr")
    browser.find_element("id", "filter").send_keys("done")
    assert [row.is_displayed() for row in rows] == [True, False]
    slide(browser, 0)
    rows[0].find_element("tag name", "button").click()
    assert browser.find_element("id", "label").text == "third"
