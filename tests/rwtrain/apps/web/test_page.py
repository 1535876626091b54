"""The page in a real browser, every tab used as a person would, on a telephone's screen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rwtrain.apps.inside import look
from rwtrain.apps.model import AppModel
from tests.rwtrain.apps.web.test_interface import bomb

if TYPE_CHECKING:
    from selenium.webdriver.remote.webdriver import WebDriver

WAIT_S = 30


@pytest.fixture
def page(browser: WebDriver, server: str) -> Any:
    browser.get_log("browser")
    browser.get(server)
    find(browser, "#tab-write")
    return browser


def waiting(browser: WebDriver) -> Any:
    """A wait that looks again when what it found is being replaced."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, WAIT_S, ignored_exceptions=[StaleElementReferenceException])


def find(browser: WebDriver, selector: str) -> Any:
    from selenium.webdriver.common.by import By

    return waiting(browser).until(lambda driver: next((found for found in driver.find_elements(By.CSS_SELECTOR, selector) if found.is_displayed()), None))


def text_of(browser: WebDriver, selector: str, unlike: str = "") -> str:
    return waiting(browser).until(lambda driver: (text := find(driver, selector).text) != unlike and text)


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
    assert "<b>bold</b>" in text_of(page, "#recommended")
    picture(page, "recommend")
    assert len(recommended(page)) == 7  # eight things without the history
    find(page, "#only-new").click()
    find(page, "#recommend").click()
    waiting(page).until(lambda driver: recommended(driver) == {"thing 6 <b>bold</b>", "thing 7 <b>bold</b>"})


def recommended(browser: WebDriver) -> set[str]:
    """Titles of the recommendations that are shown."""
    script = "return [...document.querySelectorAll('.q-tab-panel .q-card .text-subtitle1')].map(title => title.innerText)"
    return set(browser.execute_script(script))


def test_write(page: WebDriver) -> None:
    open_tab(page, "write")
    begin = f"The king of {HOSTILE} entity 3"
    type_into(page, "#draft", begin)
    find(page, "#go-on").click()
    assert text_of(page, "#written", unlike=begin).startswith(begin)
    safe(page)
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


HOSTILE = '"><img src=x onerror="window.hacked=1"><script>window.hacked=1</script>{{constructor}}'


def fields(browser: WebDriver) -> list[Any]:
    from selenium.webdriver.common.by import By

    found = browser.find_elements(By.CSS_SELECTOR, ".q-tab-panel input:not([type=file]):not([readonly]), .q-tab-panel textarea")
    return [each for each in found if each.is_displayed()]


@pytest.mark.parametrize(
    ("tab", "count", "buttons"),
    [
        ("ask", 1, {"ask": "#answer", "ask-graph": "#graph-answer"}),
        ("recommend", 1, {"find-items": ".q-tab-panel", "recommend": ".q-notification"}),
        ("write", 5, {"correct": "#corrected", "fill": "#filled", "go-on": ".q-notification"}),
        ("look", 1, {"look": "#gates-1", "look-image": ".q-notification"}),
    ],
)
def test_markup_typed_in_every_field_stays_text(page: WebDriver, tab: str, count: int, buttons: dict[str, str]) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    open_tab(page, tab)
    find(page, f"#{next(iter(buttons))}")
    if tab == "write":
        find(page, ".q-tab-panel .q-expansion-item .q-item").click()
        find(page, "input[type=number]")
    waiting(page).until(lambda driver: len(fields(driver)) == count)  # those of the tab before slide away
    for field in fields(page):
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(Keys.DELETE)
        field.send_keys(HOSTILE + (" […] was here" if tab == "write" else ""))
        field.send_keys(Keys.TAB)
    assert {button.get_attribute("id") for button in page.find_elements(By.CSS_SELECTOR, ".q-tab-panel button[id]")} - {"stop"} == set(buttons)
    for button, shown in buttons.items():
        find(page, f"#{button}").click()
        text = text_of(page, shown)
        assert HOSTILE in text or button != "fill"
    safe(page)


def safe(browser: WebDriver) -> None:
    """Nothing that was typed has become part of the page; a dialog would make the calls fail."""
    assert browser.execute_script("return window.hacked") is None
    assert browser.execute_script("return document.querySelectorAll('img[src=\"x\"], .q-tab-panel script').length") == 0


def test_markup_in_the_name_of_an_upload_stays_text(page: WebDriver, served: dict[str, str], tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By

    file = tmp_path / "<img src=x onerror=window.hacked=1>.png"
    file.write_bytes((Path(served["--gallery"]).parent / "images" / "1.png").read_bytes())
    open_tab(page, "look")
    find(page, "#upload")
    page.find_element(By.CSS_SELECTOR, "#upload input[type=file]").send_keys(str(file))
    find(page, ".q-notification")
    assert file.name in text_of(page, "#upload")
    safe(page)


def test_a_bomb_that_is_uploaded_is_refused(page: WebDriver, tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By

    file = tmp_path / "bomb.png"
    file.write_bytes(bomb(12_000))
    open_tab(page, "look")
    find(page, "#upload")
    page.find_element(By.CSS_SELECTOR, "#upload input[type=file]").send_keys(str(file))
    assert "more than the limit" in text_of(page, ".q-notification")


def test_nothing_from_elsewhere_no_error_and_no_sideways_scrolling(page: WebDriver, server: str) -> None:
    loaded = page.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert loaded
    assert [name for name in loaded if not name.startswith((server, server.replace("http", "ws"), "data:"))] == []
    for name in ("ask", "recommend", "write", "look"):
        open_tab(page, name)
        assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []
