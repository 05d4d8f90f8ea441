"""The documentation's site is built strictly, is whole, and asks no other host for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from multigraft_server.app import ROUTERS, openapi_document
from tests.house.tree import ROOT

LOADED = re.compile(r"<(?:script|img|link|iframe)[^>]*?(?:src|href)=\"?(https?://[^\s\">]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    return folder


def test_every_page_is_in_the_site_and_in_its_navigation(site: Path) -> None:
    nav = yaml.safe_dump(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"])
    pages = [page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md")]
    assert len(pages) > 20
    assert not [page for page in pages if not (site / page.with_suffix(".html")).is_file() or str(page) not in nav]


def test_the_reference_has_every_route_and_every_body(site: Path) -> None:
    page = (site / "api.html").read_text("utf-8")
    document = openapi_document()
    routes = [f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods]
    assert len(routes) > len(ROUTERS)
    assert not [route for route in routes if f"<code>{route}</code>" not in page]
    assert not [name for name in document["components"]["schemas"] if f'id="{name.lower()}"' not in page]


def test_no_page_asks_another_host_for_anything(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    asked = {url for page in pages for url in LOADED.findall(page.read_text("utf-8"))}
    assert not asked
