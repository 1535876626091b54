"""The page in a real browser, every tab used as a person would, on a telephone's screen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rwtrain.apps.inside import look
from rwtrain.apps.model import AppModel

if TYPE_CHECKING:
    from selenium.webdriver.remote.webdriver import WebDriver

WAIT_S = 30


@pytest.fixture
def page(browser: WebDriver, server: str) -> Any:
    browser.get_log("browser")
    browser.get(server)
    find(browser, "#tab-write")
    return browser


def find(browser: WebDriver, selector: str) -> Any:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, WAIT_S).until(
        lambda driver: next((found for found in driver.find_elements(By.CSS_SELECTOR, selector) if found.is_displayed()), None)
    )


def text_of(browser: WebDriver, selector: str, unlike: str = "") -> str:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, WAIT_S).until(lambda driver: (text := find(driver, selector).text) != unlike and text)


def open_tab(browser: WebDriver, name: str) -> None:
    find(browser, f"#tab-{name}").click()


def type_into(browser: WebDriver, selector: str, text: str) -> None:
    from selenium.webdriver.common.keys import Keys

    field = find(browser, selector)
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(Keys.DELETE)
    field.send_keys(text)
    field.send_keys(Keys.TAB)


def picture(browser: WebDriver, name: str) -> None:
    """Keep what the browser shows where `SCREENSHOTS` names a folder."""
    if folder := os.environ.get("SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def test_ask(page: WebDriver) -> None:
    open_tab(page, "ask")
    type_into(page, "#question", "What comes after entity 4?")
    find(page, "#ask-graph").click()
    assert "entity" in text_of(page, "#graph-answer")
    type_into(page, "#question", "What is an anarchist? <img src=x onerror=alert(1)>")
    find(page, "#ask").click()
    assert text_of(page, "#answer")
    assert "<script>alert(1)</script>, characters" in text_of(page, "#citation")
    picture(page, "ask")


def test_recommend(page: WebDriver) -> None:
    open_tab(page, "recommend")
    type_into(page, "#item-words", "thing 3")
    find(page, "#find-items").click()
    find(page, ".found-item").click()
    assert "<b>bold</b>" in text_of(page, "#history")
    find(page, "#recommend").click()
    assert text_of(page, "#recommended").startswith("thing")
    picture(page, "recommend")


def test_write(page: WebDriver) -> None:
    open_tab(page, "write")
    type_into(page, "#draft", "The king of entity 3")
    find(page, "#go-on").click()
    assert text_of(page, "#written", unlike="The king of entity 3").startswith("The king of entity 3")
    type_into(page, "#draft", "The king […] was here")
    find(page, "#fill").click()
    filled = text_of(page, "#filled")
    assert filled.startswith("The king ")
    assert filled.endswith(" was here")
    find(page, "#correct").click()
    assert text_of(page, "#corrected")
    picture(page, "write")


def test_look_shows_the_library_numbers(page: WebDriver, served: dict[str, str], tmp_path: Path) -> None:
    sentence = "Here entity 3 met entity 17."
    open_tab(page, "look")
    type_into(page, "#sentence", sentence)
    find(page, "#look").click()
    expected = look(AppModel.open(served["--model"]), sentence)
    assert text_of(page, "#link-0") == f"entity 3 → entity 3 ({expected.links[0].score:.2f})"
    for layer, row in zip(expected.gate_layers, expected.openness, strict=True):
        shown = [word for word in find(page, f"#gates-{layer}").text.split() if word.startswith("0.")]
        assert shown == [f"{value:.3f}" for value in row if value]
    assert len(find(page, "#near-images").text.split()) == 6
    picture(page, "look")


def test_look_at_an_image(page: WebDriver, served: dict[str, str]) -> None:
    from selenium.webdriver.common.by import By

    open_tab(page, "look")
    find(page, "#upload")
    page.find_element(By.CSS_SELECTOR, "#upload input[type=file]").send_keys(str(Path(served["--gallery"]).parent / "images" / "1.png"))
    find(page, ".q-notification")
    find(page, "#look-image").click()
    assert "attention goes to the image" in text_of(page, "#attention-share")
    picture(page, "look-image")


def test_nothing_from_elsewhere_no_error_and_no_sideways_scrolling(page: WebDriver, server: str) -> None:
    loaded = page.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert loaded
    assert [name for name in loaded if not name.startswith((server, server.replace("http", "ws"), "data:"))] == []
    for name in ("ask", "recommend", "write", "look"):
        open_tab(page, name)
        assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []
