"""A real browser for tests: Debian's Chromium without a screen, installed or unpacked by `make test`."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

UNPACKED = Path(".venv/debian/chromium").absolute()
_LIBRARIES = UNPACKED / "usr/lib/x86_64-linux-gnu"
SLOW_MS = 30_000


def program() -> Path:
    """Where it is. Skips the test where it isn't."""
    found = [UNPACKED / "usr/lib/chromium/chromium", *map(Path, filter(None, [shutil.which("chromium")]))]
    for each in found:
        if each.exists():
            return each
    pytest.skip("needs Chromium, which `make test` unpacks on Debian and Ubuntu; else: apt-get install chromium")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser, as long as the context lasts."""
    libraries = [str(_LIBRARIES), str(_LIBRARIES / "pulseaudio"), os.environ.get("LD_LIBRARY_PATH", "")]
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(filter(None, libraries))}
    executable = program()
    with sync_playwright() as playwright:
        # Its sandbox needs a kernel that lets any user make namespaces; a test's pages are ours.
        browser = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox"], env=environment, timeout=2 * SLOW_MS
        )
        try:
            yield browser
        finally:
            browser.close()
