"""The HTML report is one self-contained file for any file names, and makes correct plans."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import pytest

from simile.core.errors import BadSetting
from simile.dedup.cleanup.plan import parse_plan, plan_of
from simile.dedup.grouping.findings import Findings, find_similar_pairs, load_findings
from simile.dedup.grouping.groups import make_groups
from simile.dedup.grouping.quality import NOT_MEASURED_REASON
from simile.dedup.records import CleanupPlan, Decision
from simile.dedup.reporting import html_report
from simile.dedup.reporting.cards import MAX_CARD_MEMBERS
from simile.dedup.reporting.html_report import write_html_report
from simile.indexer.pipeline.job import IndexRequest, index
from simile.search.searcher import Searcher
from tests.conftest import Copies
from tests.support.browser import needs_browser


def write_report(copies: Copies, path: Path, *decisions: Decision) -> Findings:
    """Write the report of all groups and return its findings."""
    with Searcher(copies.settings) as searcher:
        searcher.catalogue.duplicates.save_decisions(decisions)
        findings = load_findings(searcher.catalogue)
        similar = find_similar_pairs(searcher.catalogue, findings)
        write_html_report(path, searcher, findings, make_groups(findings), similar_file_pairs=similar)
    return findings


@pytest.fixture
def page(browser: Any, copies: Copies, tmp_path: Path) -> Iterator[Any]:
    write_report(copies, tmp_path / "report.html")
    context = browser.new_context(viewport={"width": 1400, "height": 900}, accept_downloads=True)
    page = context.new_page()
    failed: list[str] = []
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.on("console", lambda message: failed.append(message.text) if message.type == "error" else None)
    page.goto((tmp_path / "report.html").as_uri())
    yield page
    context.close()
    assert failed == []


def download_plan(page: Any) -> CleanupPlan:
    """Download the page's plan."""
    with page.expect_download() as download:
        page.keyboard.press("e")
    assert re.fullmatch(r"simile-plan-\d{8}-\d{6}\.json", download.value.suggested_filename)
    return parse_plan(json.loads(Path(download.value.path()).read_text()), "the plan")


def lines(plan: CleanupPlan) -> list[tuple[str, ...]]:
    """Return the lines of a plan without reasons."""
    return [(line.path, line.keep_path, line.sha256, line.keep_sha256, line.tier) for line in plan.removals]


def visible(page: Any) -> int:
    return sum(card.is_visible() for card in page.locator(".card").all())


def test_the_report_contains_all_images_and_loads_nothing(copies: Copies, tmp_path: Path) -> None:
    write_report(copies, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("<article") == 15  # 2 bytes, 2 pixels, 10 near, 1 similar
    assert not re.search(r"""(src|href)=["'](?!data:)""", page) and "url(" not in page
    assert "default-src 'none'" in page
    assert page.index("Same pixels") < page.index('data-tier="near"') < page.index('data-tier="bytes"')
    assert page.count("data:image/") == 2 * 2 + 9 * 3 + 5 + 2 + 3


def test_unreadable_files_are_shown_as_missing(copies: Copies, tmp_path: Path) -> None:
    for name in ("phone/02.jpg", "camera/03.png"):  # damaged unnoticed: size and time stay
        path = copies.photos / name
        status = path.stat()
        path.write_bytes(b"dear diary".ljust(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    write_report(copies, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("can no longer be read") == 2
    assert page.count("<article") == 15


def test_a_file_that_no_plan_removes_has_the_reason(copies: Copies, tmp_path: Path) -> None:
    write_report(copies, tmp_path / "measured.html")
    assert "To decide:" not in (tmp_path / "measured.html").read_text("utf-8")
    (copies.settings.home / "dedup" / "measurements.json").unlink()
    write_report(copies, tmp_path / "unmeasured.html")
    assert f"To decide: {escape(NOT_MEASURED_REASON)}." in (tmp_path / "unmeasured.html").read_text("utf-8")


def test_file_names_are_escaped_in_the_report(copies: Copies, tmp_path: Path) -> None:
    name = "</script><img src=x onerror=alert(1)>.png"
    (copies.photos / "camera/01.png").rename(copies.photos / "camera" / name.replace("/", "∕"))
    index(copies.settings, [copies.photos], IndexRequest())
    write_report(copies, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<img src=x" not in page and "&lt;img src=x" in page


def test_of_many_groups_the_first_are_shown_and_progress_is_reported(
    copies: Copies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html_report, "MAX_REPORT_GROUPS", 5)
    steps: list[tuple[str, int, int]] = []
    with Searcher(copies.settings) as searcher:
        findings = load_findings(searcher.catalogue)
        groups = make_groups(findings)
        write_html_report(
            tmp_path / "report.html", searcher, findings, groups, on_progress=lambda *step: steps.append(step)
        )
    page = (tmp_path / "report.html").read_text()
    assert page.count("<article") == 5 and "Shown: 5 of 14 groups" in page
    assert steps[-1] == ("report", 5, 5)


def test_a_huge_group_shows_its_first_members(copies: Copies, tmp_path: Path) -> None:
    with Searcher(copies.settings) as searcher:
        findings = load_findings(searcher.catalogue)
        group = next(group for group in make_groups(findings) if group.tier == "near")
        other = group.members[1]
        many = [replace(other, file=replace(other.file, path=f"/photos/{n}.jpg")) for n in range(30)]
        write_html_report(
            tmp_path / "report.html", searcher, findings, [replace(group, members=(group.members[0], *many))]
        )
    page = (tmp_path / "report.html").read_text()
    assert page.count("data-place=") == MAX_CARD_MEMBERS and f"{31 - MAX_CARD_MEMBERS} more are not shown" in page


def test_a_home_without_copies_says_so(copies: Copies, tmp_path: Path) -> None:
    with Searcher(copies.settings) as searcher:
        write_html_report(tmp_path / "report.html", searcher, load_findings(searcher.catalogue), [])
    assert "No copies were found." in (tmp_path / "report.html").read_text()


@needs_browser
def test_decisions_by_keyboard_become_a_plan(page: Any, copies: Copies) -> None:
    assert page.inner_text("#progress") == "0 of 13 decided · 2 files in the plan"
    page.keyboard.press("j")
    for key in "yynyk":  # both pixel pairs, then 01 to 03
        page.keyboard.press(key)
    plan = download_plan(page)
    paths = {line.path.removeprefix(f"{copies.photos}/"): line for line in plan.removals}
    assert {"camera/20.png", "camera/21.png", "phone/02.jpg", "camera/03.png"} < paths.keys()
    assert sum(line.tier == "bytes" for line in plan.removals) == 2 and len(paths) == 6
    assert paths["camera/03.png"].keep_path.endswith("phone/03.jpg")
    assert sorted(decision.same for decision in plan.decisions) == [False, True, True, True, True]
    assert [decision.keep_sha256 for decision in plan.decisions if decision.keep_sha256] == [
        paths["camera/03.png"].keep_sha256
    ]
    page.locator(".more summary").click()
    page.get_by_label("include equal bytes").uncheck()
    assert len(download_plan(page).removals) == 4


@needs_browser
def test_the_plan_with_undecided_pairs_equals_the_plan_of_the_command(page: Any, copies: Copies) -> None:
    page.locator(".more summary").click()
    page.get_by_label("include undecided pairs").check()
    with Searcher(copies.settings) as searcher:
        findings = load_findings(searcher.catalogue)
        ours = plan_of(findings, make_groups(findings))
    theirs = download_plan(page)
    assert set(lines(theirs)) == set(lines(ours)) and theirs.home == ours.home


@needs_browser
def test_decisions_survive_a_reload_and_can_be_undone(page: Any) -> None:
    page.keyboard.press("j")
    page.keyboard.press("y")
    page.keyboard.press("n")
    page.reload()
    assert page.inner_text("#progress").startswith("2 of 13 decided")
    page.keyboard.press("j")
    page.keyboard.press("n")
    page.keyboard.press("u")
    assert page.locator(".other").first.get_by_role("button", name="Same").get_attribute("aria-pressed") == "true"
    assert page.inner_text("#progress").startswith("2 of 13 decided")


@needs_browser
def test_a_group_of_three_keeps_the_chosen_file(page: Any, copies: Copies) -> None:
    page.get_by_placeholder("part of a path").fill("phone/00")
    assert visible(page) == 1
    page.locator(".card:visible .other").first.click()
    page.keyboard.press("k")
    page.keyboard.press("j")
    page.keyboard.press("y")
    kept = {line.keep_path for line in download_plan(page).removals if line.tier == "near"}
    assert kept == {str(copies.photos / "phone/00.jpg")}
    assert page.locator(".card:visible .is-removed").count() == 2
    page.locator(".card:visible .other").first.get_by_role("button", name="Keep this file").click()  # again: undone
    kept = {line.keep_path for line in download_plan(page).removals if line.tier == "near"}
    assert kept == {str(copies.photos / "camera/00.png")}


@needs_browser
def test_filters_hide_other_groups(page: Any) -> None:
    assert visible(page) == 15
    page.get_by_text("Near copies 10").click()
    assert visible(page) == 5
    page.get_by_text("Near copies 10").click()
    page.locator("[name=distance]").evaluate(
        "(range) => { range.value = 0.155; range.dispatchEvent(new Event('input', { bubbles: true })) }"
    )
    assert visible(page) == 2 + 2 + 5
    page.locator("[name=state]").select_option("open")  # equal bytes and similar pairs need no decision
    assert visible(page) == 2 + 5
    page.get_by_placeholder("part of a path").fill("nowhere")
    assert visible(page) == 0 and page.locator("#none").is_visible()


@needs_browser
def test_the_report_shows_earlier_decisions(browser: Any, copies: Copies, tmp_path: Path) -> None:
    with Searcher(copies.settings) as searcher:
        shas = [searcher.get_image(copies.ids[name]).sha256 for name in ("camera/04.png", "phone/04.jpg")]
    write_report(copies, tmp_path / "report.html", Decision(min(shas), max(shas), True))
    context = browser.new_context(viewport={"width": 390, "height": 800}, accept_downloads=True)
    page = context.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    assert page.inner_text("#progress").startswith("1 of 13 decided")
    assert [line.path for line in download_plan(page).removals if line.tier == "near"] == [
        str(copies.photos / "phone/04.jpg")
    ]
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    context.close()


@needs_browser
def test_a_plan_is_as_old_as_the_last_decision_and_contains_no_older_ones(
    browser: Any, copies: Copies, tmp_path: Path
) -> None:
    with Searcher(copies.settings) as searcher:
        shas = [searcher.get_image(copies.ids[name]).sha256 for name in ("camera/04.png", "phone/04.jpg")]
    context = browser.new_context(accept_downloads=True)
    page = context.new_page()
    moments = []
    for number in range(2):  # written again of the same groups
        before = datetime.now(UTC)
        write_report(copies, tmp_path / "report.html", Decision(min(shas), max(shas), True))
        moments.append((before, datetime.now(UTC)))
        page.goto((tmp_path / "report.html").as_uri())
        assert page.inner_text("#progress").startswith("1 of 13 decided"), "decisions on another report do not count"
        plan = download_plan(page)
        assert moments[number][0] <= datetime.fromisoformat(plan.created_at) <= moments[number][1]
        assert plan.decisions == (), "the home has them already"
        page.keyboard.press("j")
        page.keyboard.press("y")
        answered = datetime.now(UTC)
        plan = download_plan(page)
        assert moments[number][1] < datetime.fromisoformat(plan.created_at) <= answered
        assert len(plan.decisions) == 1
        page.reload()
        assert download_plan(page).created_at == plan.created_at
        assert page.inner_text("#progress").startswith("2 of 13 decided")
    context.close()


@needs_browser
def test_the_report_can_be_read_without_javascript(browser: Any, copies: Copies, tmp_path: Path) -> None:
    write_report(copies, tmp_path / "report.html")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    assert visible(page) == 15 and not page.locator("#bar").is_visible()
    assert not any(button.is_visible() for button in page.get_by_role("button").all())
    context.close()


def test_a_report_that_can_not_be_written_raises_the_reason(copies: Copies, tmp_path: Path) -> None:
    with Searcher(copies.settings) as searcher, pytest.raises(BadSetting, match=r"gone/report\.html can't be written"):
        write_html_report(tmp_path / "gone" / "report.html", searcher, load_findings(searcher.catalogue), [])
