"""axe-core, which finds faults of accessibility in a page: an npm package that isn't part of this repository.

`python -m tests.support.axe`, which `make test` runs, fetches it with npm into var/test-tools.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from hashlib import sha512
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.dashboard.browser_page import BrowserPage

VERSION = "4.14.1"
SHA512 = (
    "1477dafa598d8d065f273d6af302aa203c02e83131707b7fa648cd41bd3d6b73"
    "4f8c22a0dab86ee6a6f64b8afbe804b214d36db85a2826965edfb3a0b9d546b5"
)
PACKAGE = ROOT / f"var/test-tools/axe-core-{VERSION}.tgz"
WORST = ("serious", "critical")
_RUN = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ["violations"]}).then(({violations}) => done(violations.map(
  ({id, impact, nodes}) => [id, impact, nodes.map((node) => node.target.join(" "))])));
"""


def is_genuine(file: Path) -> bool:
    """Return True if the file is the package of `VERSION`."""
    return file.is_file() and sha512(file.read_bytes()).hexdigest() == SHA512


def source() -> str:
    """Return the script; skip the test if the package isn't there."""
    if not is_genuine(PACKAGE):
        pytest.skip(f"needs axe-core {VERSION}: python -m tests.support.axe fetches it with npm")
    with tarfile.open(PACKAGE) as package:
        script = package.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()


async def serious_findings(page: BrowserPage) -> list[Any]:
    """Run axe in a page; return rule, impact and elements of each serious or critical finding."""
    script = source()

    def check(chrome: Any) -> list[Any]:
        # by the debugger, since the page's content policy allows no foreign script
        chrome.execute_cdp_cmd("Runtime.evaluate", {"expression": script})
        found: list[Any] = chrome.execute_async_script(_RUN)
        return found

    return [one for one in await page.do(check) if one[1] in WORST]


def fetch() -> None:
    """Fetch the package with npm, if there is one; say so if that fails."""
    if is_genuine(PACKAGE):
        return
    npm = shutil.which("npm")
    if npm is None:
        print("no npm: the tests of accessibility will skip")
        return
    PACKAGE.parent.mkdir(parents=True, exist_ok=True)
    command = [npm, "pack", "--silent", "--fetch-retries=0", "--fetch-timeout=30000", f"axe-core@{VERSION}"]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, check=False)
    if not is_genuine(PACKAGE):
        PACKAGE.unlink(missing_ok=True)
        why = done.stderr.strip().splitlines()[-1:] or ["its SHA-512 is another one"]
        print(f"no axe-core {VERSION} ({why[0]}): the tests of accessibility will skip")


if __name__ == "__main__":
    fetch()
