"""What all pages are made of: templates, style, scripts with their hashes, and data for the scripts."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import agent
from agent.analysis.report import formats
from agent.analysis.report.descriptions import is_distinguishable, kind_name
from agent.analysis.report.packing import PackedCandles
from agent.analysis.report.plot import Figure
from agent.core.errors import StoreError, TapewireError
from agent.system.atomic import write_bytes

PAGE: Final = Path(__file__).with_name("page")
"""Folder of the templates, the style and the scripts."""

# the dashboard's copy: there is one in the package
_LIGHTWEIGHT_CHARTS: Final = (
    Path(agent.__file__).parent / "dashboard" / "page" / "vendor" / "lightweight-charts.js"
)
_FILTERS: Final = ("number", "percent", "basis_points", "money", "price", "duration", "date", "minute")


@cache
def environment() -> Environment:
    """Return the templates of the pages, with escaping and the filters of `formats`."""
    environment = Environment(
        loader=FileSystemLoader(PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(formats, name) for name in _FILTERS} | {"kind_name": kind_name}
    environment.tests["distinguishable"] = is_distinguishable
    return environment


def render_page(
    template: str,
    *,
    figures: Mapping[str, Figure] | None = None,
    candles: Mapping[str, PackedCandles] | None = None,
    **content: Any,
) -> str:
    """Render a template with its style, scripts and data: `figures` by the id of their element, and `candles`
    by symbol.
    """
    scripts = _scripts(with_charts=bool(figures))
    return (
        environment()
        .get_template(template)
        .render(
            **content,
            style=Markup(_read("report.css")),
            scripts=[Markup(script) for script in scripts],
            script_hashes=[_csp_hash(script) for script in scripts],
            islands={
                "figures": _script_json(figures or {}),
                "candles": _script_json(candles or {}),
                **{name: _script_json(value) for name, value in content.get("data_islands", {}).items()},
            },
        )
    )


def write_page(html: str, path: Path, option: str = "--report") -> Path:
    """Write a page; `option` is what named the path. Raises TapewireError if the file can't be written."""
    try:
        write_bytes(path, html.encode())
    except StoreError as error:
        raise TapewireError(error.message, hint=f"choose another path with {option}") from None
    return path


def _scripts(*, with_charts: bool) -> list[str]:
    charts = [_LIGHTWEIGHT_CHARTS.read_text(encoding="utf-8"), _read("unpack.js")] if with_charts else []
    own = ["chart_base.js", "charts.js", "tables.js"] if with_charts else ["tables.js"]
    return [*charts, *map(_read, own)]


@cache
def _read(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


@cache
def _csp_hash(script: str) -> str:
    """Return the hash that allows a script in the page's Content-Security-Policy."""
    return f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}"


def _script_json(value: Any) -> Markup:
    """Encode as JSON for a script element; escaping `<` ensures that the data can't end the element."""
    return Markup(msgspec.json.encode(value).decode().replace("<", "\\u003c"))
