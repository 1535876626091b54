"""Pictures of every tab for the docs, used as a person would, in headless Chromium.

    python -m benchmarks.apps.screenshots --data DIR [--out docs/images]

DIR holds qa and fashion-mnist. Needs the model of `python -m benchmarks.apps.model`, Debian's chromium and chromium-driver, and selenium. The recommender's
catalogue is an invented shelf of travel guides, whose cities are entities of FB15k-237.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from benchmarks.apps.model import MODEL, OUT
from benchmarks.apps.serving import FOLDER, make_parts, server
from rwtrain.knowledge.store import EntityStore

if TYPE_CHECKING:
    from selenium.webdriver.remote.webdriver import WebDriver

JOURNEYS = (
    ("London", "Oxford", "Cambridge", "Manchester", "Liverpool", "Glasgow", "Edinburgh", "Dublin"),
    ("Paris", "Barcelona", "Madrid", "Lisbon", "Rome", "Florence", "Venice", "Athens"),
    ("Boston", "Philadelphia", "Chicago", "New Orleans", "Seattle", "Portland", "Honolulu", "Toronto"),
    ("Berlin", "Munich", "Vienna", "Prague", "Budapest", "Warsaw", "Moscow", "Helsinki"),
)
TRAVELLERS = 200
WIDTH = 960
WAIT_S = 60
TALLEST = 1250
COLOURS = 128  # of a palette: keeps the files small


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with qa and fashion-mnist")
    parser.add_argument("--model", type=Path, default=MODEL, help="exported folder (default: that of benchmarks.apps.model)")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder of the pictures (default docs/images)")
    options = parser.parse_args()
    shelf = FOLDER / "guides"
    if not (shelf / "travel-guides").exists():
        make_shelf(shelf, options.model)
    browser = make_browser()
    try:
        with server(make_parts(options.data, shelf / "travel-guides")) as port:
            take(browser, f"http://127.0.0.1:{port}", options.out)
    finally:
        browser.quit()


def make_shelf(folder: Path, model: Path) -> None:
    """Travel guides and who read what, and a recommender of them; travellers mostly go on along one journey."""
    store, draw = EntityStore.open(OUT / "kg"), random.Random(0)
    cities = [city for journey in JOURNEYS for city in journey]
    entities: dict[str, str] = {}
    for row in range(len(store)):
        entities.setdefault(store.label(row), store.external_id(row))
    folder.mkdir(parents=True, exist_ok=True)
    items = [{"id": city, "text": f"A walk through {city}: travel guide", "entity": entities[city]} for city in cities]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    rows = ["user,item,time"]
    for traveller in range(TRAVELLERS):
        journey = draw.choice(JOURNEYS)
        taken = sorted(draw.sample(range(len(journey)), draw.randint(5, 7)))
        rows += [f"t{traveller},{journey[place]},{day}" for day, place in enumerate(taken)]
    (folder / "histories.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    words = ["recommend", "train", "items.jsonl", "histories.csv", "--model", str(model.resolve()), "--store", str((OUT / "kg").resolve()), "--epochs", "2"]
    subprocess.run([sys.executable, "-m", "rwtrain.cli", *words, "--out", "travel-guides"], cwd=folder, check=True)


def make_browser() -> WebDriver:
    """Headless Chromium."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars", f"--window-size={WIDTH},700"):
        options.add_argument(argument)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=shutil.which("chromedriver")))


def take(browser: WebDriver, address: str, out: Path) -> None:
    """Use every tab and keep what it shows."""
    tab(browser, address, "ask")
    write(browser, "#question", "Where was Barack Obama born?")
    press(browser, "#ask-graph", "#graph-answer")
    keep(browser, out / "apps-ask.png")
    tab(browser, address, "recommend")
    for number, city in enumerate(("Boston", "Chicago"), 1):
        write(browser, "#item-words", city)
        press(browser, "#find-items", ".found-item")
        find(browser, ".found-item").click()
        wait(browser, lambda number=number: len(browser.find_elements("css selector", "#history .q-chip")) == number)
    press(browser, "#recommend", "#recommended")
    keep(browser, out / "apps-recommend.png")
    tab(browser, address, "write")
    write(browser, "#draft", "becouse I prefered the city, i think that childrens learn most there.")
    press(browser, "#correct", "#corrected")
    keep(browser, out / "apps-write.png")
    tab(browser, address, "look")
    write(browser, "#sentence", "Barack Obama was born in Honolulu and studied at Harvard University.")
    press(browser, "#look", "#near-images")
    keep(browser, out / "apps-look.png")
    tab(browser, address, "look")
    browser.find_element("css selector", "#upload input[type=file]").send_keys(str((FOLDER / "pictures" / "bag 1.png").resolve()))
    find(browser, ".q-notification")
    write(browser, "#sentence", "a black bag")
    press(browser, "#look-image", "#attention-share")
    keep(browser, out / "apps-look-image.png")


def tab(browser: WebDriver, address: str, name: str) -> None:
    """A fresh page with one tab open."""
    browser.set_window_size(WIDTH, 700)
    browser.get(address)
    find(browser, f"#tab-{name}").click()
    time.sleep(0.5)  # the panels slide


def write(browser: WebDriver, selector: str, text: str) -> None:
    from selenium.webdriver.common.keys import Keys

    field = find(browser, selector)
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(text)
    field.send_keys(Keys.TAB)


def press(browser: WebDriver, button: str, shown: str) -> None:
    """Press a button and wait for what it shows."""
    find(browser, button).click()
    find(browser, shown)


def find(browser: WebDriver, selector: str) -> Any:
    """The first visible element."""
    return wait(browser, lambda: next((found for found in browser.find_elements("css selector", selector) if found.is_displayed()), None))


def wait(browser: WebDriver, wanted: Any) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, WAIT_S).until(lambda _: wanted())


def keep(browser: WebDriver, path: Path) -> None:
    """The whole page as a small file."""
    wait(browser, lambda: not browser.find_elements("css selector", ".q-notification"))
    bottom = browser.execute_script("return Math.max(...[...document.querySelectorAll('.q-tab-panel *')].map(each => each.getBoundingClientRect().bottom))")
    frame = browser.execute_script("return window.outerHeight - window.innerHeight")
    browser.set_window_size(WIDTH, min(int(bottom), TALLEST) + frame + 16)
    time.sleep(0.5)
    browser.execute_script("document.activeElement.blur()")
    browser.save_screenshot(str(path))
    Image.open(path).convert("RGB").quantize(COLOURS).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
