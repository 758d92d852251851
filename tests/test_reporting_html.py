"""report.html: one file without a network, safe against what stands in run folders, and usable in a browser."""

import base64
import hashlib
import json
import re
import shutil
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from reporting_results import SEVEN, miniature_settings, paper_settings, write_examples, write_run

from omniad.reporting.render import blocks, inline, markdown, words
from omniad.reporting.report import write_report

HOSTILE = "<script>alert(1)</script>"


class Page(HTMLParser):
    """What a page refers to, and which elements it has."""

    def __init__(self, text: str):
        super().__init__()
        self.sources: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self.sources += [value for key, value in attrs if key == "src" and value]
        self.links += [values["href"] or ""] if tag == "a" and "href" in values else []
        self.ids += [values["id"] or ""] if "id" in values else []


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """Two classes under two runs, one of them with a hostile note and test metrics by epoch."""
    values = miniature_settings(tmp_path_factory.mktemp("html")).model_dump()
    values["runs"]["default"]["note"] = HOSTILE
    settings = miniature_settings(Path(values["results"]), seeds=[0, 1], runs=values["runs"])
    for run, offset in (("default", 0.0), ("only_q", 0.1)):
        for seed in (0, 1):
            percents = {"I-AUROC": 0.5 + offset + seed / 100, "mAD": 0.6 + offset}
            folder = write_run(settings, "mvtec", run, seed, percents)
            for name in ("bottle", "nut"):
                write_examples(folder, name)
    epochs = "epoch,metric,definition,value\n10,mAD,published,0.7\n10,I-AUROC,published,0.4\n20,mAD,published,0.6\n"
    (folder / "epochs.csv").write_text(epochs + "20,I-AUROC,published,0.5\n")
    return write_report(settings).with_suffix(".html")


def test_the_page_needs_nothing_from_elsewhere(report):
    text = report.read_text()
    page = Page(text)
    assert all(source.startswith("data:image/") for source in page.sources)
    assert len(page.sources) > 8
    assert not re.search(r"(?:src|href|url\()\s*=?\s*[\"']?(?:https?:)?//", text)
    assert "default-src 'none'" in text  # the browser itself refuses any address
    assert "link" in page.tags  # the empty icon, without which a browser asks for one
    assert page.tags.count("script") == 1


def test_every_link_leads_somewhere(report):
    page = Page(report.read_text())
    assert len(set(page.ids)) == len(page.ids)
    inside = {link[1:] for link in page.links if link.startswith("#")}
    assert inside - {"top"} <= set(page.ids)
    files = [report.parent / link for link in page.links if not link.startswith("#")]
    assert not [file for file in files if not file.exists()]


def test_what_stands_in_a_run_folder_is_shown_as_text(report):
    text = report.read_text()
    assert HOSTILE not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_no_html_of_a_run_folder_counts_in_markdown_either(report):
    text = report.with_suffix(".md").read_text()
    assert "<script" not in text
    assert "&lt;script>alert(1)&lt;/script>" in text


def test_each_number_of_ours_leads_to_its_runs(report):
    page = Page(report.read_text())
    assert {"run-mvtec-default", "run-mvtec-only_q"} <= set(page.ids)
    assert page.links.count("#run-mvtec-default") > 6  # Tables I to VII


def test_each_class_has_its_worst_images(report):
    page = Page(report.read_text())
    assert {"class-mvtec-bottle", "class-mvtec-nut", "classes-mvtec-default", "classes-mvtec-only_q"} <= set(page.ids)
    text = report.read_text()
    assert text.count("bottle/test/miss.png, score 0.2500") == 2  # under two runs


def test_the_oracle_is_labelled_and_of_one_epoch(report):
    text = report.read_text()
    row = text[text.index('id="oracle"') :]
    assert "An oracle, not a result." in row
    # Epoch 10 has the higher mAD, so its I-AUROC 40 stands there though epoch 20's 50 is higher.
    assert re.search(r"<td>10, oracle</td><td>70\.0</td><td>40\.0</td>", row)
    assert re.search(r"<td>20, last</td><td>60\.0</td><td>50\.0</td>", row)


def test_the_browser_runs_the_page_s_own_script_and_style_alone(report):
    """Its content policy names them by hash; the browser test below shows that they still work."""
    text = report.read_text()
    assert "unsafe" not in text
    for tag, kind in (("script", "script-src"), ("style", "style-src")):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        sha256 = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind} 'sha256-{sha256}';" in text
        assert len(content) > 500


def test_text_made_safe_for_markdown_is_itself_again_in_html():
    for text in (
        "[a](javascript:b)",
        r"\[a](b.md)",
        "a | b < c & d",
        "[a]: javascript:b",
        "<img src=x>",
        "\\",
        "a\\[b",
    ):
        assert "<a" not in inline(markdown(text)) and "<img" not in inline(markdown(text))
        assert unescape(inline(markdown(text))) == text
    assert "href" not in inline("[e](//example.org/x) [f](/etc/passwd) [g](\\\\host)")


def test_our_markdown_becomes_html_and_everything_else_is_escaped():
    assert inline("**a** `b_c` *d* [e](f.md) 2 * 3 * 4 < 5") == (
        '<strong>a</strong> <code>b_c</code> <em>d</em> <a href="f.md">e</a> 2 * 3 * 4 &lt; 5'
    )
    assert "href" not in inline("[e](javascript:alert(1)) [f](https://example.org)")
    assert inline('<img src="x">') == "&lt;img src=&#34;x&#34;&gt;"
    assert blocks("a\nb\n\n- c\n- d\n") == "<p>a b</p>\n<ul>\n<li>c</li>\n<li>d</li>\n</ul>"


def test_a_cell_breaks_between_words_only():
    assert words("98.4 ± 0.2 (97.9)") == '98.4 <span class="whole">± 0.2</span> (97.9)'
    assert words("? ±0.91 (n = 8)") == '? ±0.91 <span class="whole">(n = 8)</span>'
    assert words("1 of 3") == '<span class="whole">1 of 3</span>'
    assert words("P-AUROC\nours, <b>") == '<span class="whole">P-AUROC</span><br>ours, &lt;b&gt;'


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no Chromium here (Debian: apt install chromium chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('browser')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


@pytest.fixture
def page(browser, report):
    browser.set_window_size(1300, 900)
    browser.get(report.as_uri())
    return browser


def first_column(page, selector: str) -> list[str]:
    return page.execute_script(
        "return [...document.querySelector(arguments[0]).tBodies[0].rows].map(row => row.cells[0].textContent)",
        selector,
    )


def test_a_table_sorts_up_down_and_back(page):
    selector = "#table4 ~ .wide table"
    # Table IV prints mAD 86.2, 86.2, 86.4, 86.2: the highest is that of 64 tokens.
    original = first_column(page, selector)
    head = page.find_element("css selector", f"{selector} thead th:nth-child(8)")
    button = head.find_element("css selector", "button")
    assert button.text.split() == ["mAD", "paper"]
    orders = []
    for direction in ("ascending", "descending", "none"):
        page.execute_script("arguments[0].click()", button)
        assert head.get_attribute("aria-sort") == direction
        orders.append(first_column(page, selector))
    up, down, back = orders
    assert up[-1].startswith("64")
    assert down[0].startswith("64")
    assert back == original


def test_numbers_sort_as_numbers_and_dashes_come_last(page):
    selector = "#table1 ~ .wide table"
    button = page.find_element("css selector", f"{selector} thead th:nth-child(6) button")
    assert button.text == "I-AP"
    page.execute_script("arguments[0].click()", button)
    texts = page.execute_script(
        "return [...document.querySelector(arguments[0]).tBodies[0].rows].map(row => row.cells[5].textContent)",
        selector,
    )
    numbers = [float(text) for text in texts if re.match(r"\d", text)]
    assert numbers == sorted(numbers)
    assert len(numbers) > 15
    assert not any(re.match(r"\d", text) for text in texts[len(numbers) :])


def test_a_figure_opens_large_and_closes(page):
    dialog = page.find_element("css selector", "dialog")
    width = "return document.querySelector('dialog img').getBoundingClientRect().width"
    page.execute_async_script(
        "document.querySelector('dialog img').addEventListener('load', () => setTimeout(arguments[0], 50));"
        "document.querySelector('#figures ~ figure img.zoom').click()"
    )
    assert dialog.is_displayed()
    before = page.execute_script(width)
    page.execute_script("document.querySelector('dialog .in').click()")
    assert page.execute_script(width) > 1.2 * before > 0
    page.execute_script("document.querySelector('dialog .close').click()")
    assert not dialog.is_displayed()


def test_a_link_into_a_folded_part_opens_it(page):
    assert not page.find_element("id", "class-mvtec-nut").get_attribute("open")
    page.execute_script("location.hash = '#class-mvtec-nut'")
    page.execute_async_script("setTimeout(arguments[0], 100)")
    assert page.find_element("id", "class-mvtec-nut").get_attribute("open")


@pytest.fixture(scope="module")
def full_report(tmp_path_factory) -> Path:
    """A report whose tables are as wide as they get: spreads, verdicts, three lines for one row, printed classes."""
    settings = paper_settings(tmp_path_factory.mktemp("full"))
    runs = ["default", "released", "default_torchvision", "mambaad", "dinomaly", "depths_6_12_11_9", "wide_resnet50_2"]
    for run in runs:
        for seed in settings.seeds:
            values: dict[str, float | None] = dict.fromkeys((*SEVEN, "mAD"), 0.9 + seed / 200)
            folder = write_run(settings, "mvtec", run, seed, values)
            facts = json.loads((folder / "provenance.json").read_text())
            facts |= {"config_sha256": "0" * 64, "data": {"sha256": "1" * 64}, "weights": {"sha256": "2" * 64}}
            facts["training"] |= {"energy_j": 3.6e7, "peak_memory_mib": {"gpu": 20480}}
            (folder / "provenance.json").write_text(json.dumps(facts))
    return write_report(settings).with_suffix(".html")


@pytest.mark.parametrize("width", [1000, 1300, 1900])
def test_no_column_of_any_table_is_cut_off(browser, full_report, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(full_report.as_uri())
    cut = browser.execute_script(
        "return [...document.querySelectorAll('.wide')].filter(wide => wide.scrollWidth > wide.clientWidth)"
        ".map(wide => wide.textContent.trim().slice(0, 80))"
    )
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert cut == []


def test_a_table_too_wide_for_a_telephone_says_that_it_scrolls(browser, full_report):
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(full_report.as_uri())
    told = browser.execute_async_script(
        "setTimeout(() => arguments[0](document.querySelector('#table1 ~ .wide').classList.contains('more')), 100)"
    )
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert told


def test_tables_that_are_not_the_papers_go_by_their_titles(full_report):
    text = full_report.with_suffix(".md").read_text()
    assert "## Memory-bank methods (not in the paper)\n" in text
    assert not re.search(r"^## (table|field)", text, re.MULTILINE)
    assert "table1_memory:" not in full_report.read_text()


@pytest.mark.parametrize("width", [390, 1300])
def test_nothing_is_wider_than_the_screen_and_no_error_is_logged(page, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.refresh()
    wide = page.execute_script("return document.documentElement.scrollWidth")
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= width
    assert page.get_log("browser") == []
    broken = "return [...document.images].filter(i => i.src && i.complete && !i.naturalWidth).length"
    assert page.execute_script(broken) == 0
