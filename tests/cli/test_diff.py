"""`tapewire diff`: two recorded runs, or two walk-forwards, in a real store."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Outcome
from tests.conftest import ROOT

Tapewire = Callable[..., Outcome]
SAMPLE = ROOT / "tests/sample_data/BTCUSDT-1m.csv"
MINUTE = 60_000

TIMED = """
import tapewire as tw


class Params(tw.StrategyParams):
    first: int = 100
    weight: float = 0.1
    label: str = "as planned"


class Timed(tw.Strategy[Params]):
    def on_start(self, market):
        self.bars = 0

    def on_kline(self, kline, market):
        self.bars += 1
        self.plot("first", float(self.params.first))
        if self.bars == self.params.first:
            self.target(kline.symbol, weight=self.params.weight, reason=self.params.label)
        if self.bars == self.params.first + 30:
            self.target(kline.symbol, weight=0.0, reason="time is up")
"""
"""Buys at the close of bar `first` and sells 30 bars later. Without funding before bar 240, the number of an
event is that of its bar."""


def bars(file: Path = SAMPLE) -> list[dict[str, str]]:
    with file.open() as rows:
        return list(csv.DictReader(rows))


@pytest.fixture
def run(tapewire: Tapewire) -> Callable[..., str]:
    """Record a backtest of `Timed` and return the id of its run."""
    Path("timed.py").write_text(TIMED)

    def record(*settings: str, file: Path = SAMPLE, more: tuple[str, ...] = ()) -> str:
        sets = [word for setting in settings for word in ("--set", setting)]
        klines = ("--klines", f"BTCUSDT={file}")
        done = tapewire("backtest", *klines, "--strategy", "timed.py", *sets, *more, "--json")
        assert done.code == 0, done.err
        return str(json.loads(done.out)["run"])

    return record


def compared(tapewire: Tapewire, *args: str) -> dict[str, Any]:
    done = tapewire("diff", *args, "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_a_run_against_itself_is_identical(tapewire: Tapewire, run: Callable[..., str]) -> None:
    one = run()
    done = tapewire("diff", one, one)
    assert done.code == 0
    assert "identical: the same settings, inputs and" in done.out
    found = compared(tapewire, one, "latest")
    assert found["identical"]
    assert found["first_decision"] is None
    assert found["settings"] == []
    assert found["trades"]["equal"] == 1


def test_a_repetition_is_identical_although_all_ids_differ(
    tapewire: Tapewire, run: Callable[..., str]
) -> None:
    one, other = run(), run()
    found = compared(tapewire, one, other)
    assert found["identical"]
    assert found["inputs"]["same"]
    rows = len(bars())
    assert found["inputs"]["checked"] >= rows
    assert (
        found["inputs"]["detail"]
        == f"all {found['inputs']['checked']:,} events are equal, compared one by one"
    )
    decisions = found["decisions"]
    assert decisions["a"] == decisions["b"] == decisions["equal"] > 0


def test_another_source_that_decides_the_same_is_shown(tapewire: Tapewire, run: Callable[..., str]) -> None:
    one = run()
    Path("timed.py").write_text(f"{TIMED}\n# a comment\n")
    done = tapewire("backtest", "--klines", f"BTCUSDT={SAMPLE}", "--strategy", "timed.py", "--json")
    found = compared(tapewire, one, json.loads(done.out)["run"])
    assert found["identical"]
    assert len(found["versions"]) == 1
    (name,) = found["versions"]
    assert name in tapewire("diff", one, "latest").out


def test_one_changed_parameter_names_the_first_differing_decision(
    tapewire: Tapewire, run: Callable[..., str]
) -> None:
    """Run a buys on bar 100; run b, with first=120, decides nothing there."""
    one, other = run(), run("first=120")
    found = compared(tapewire, one, other)
    assert found["settings"] == [{"key": "strategy.params.first", "a": 100, "b": 120, "decides": True}]
    assert found["inputs"] | {"detail": ""} == {
        **{"same": True, "detail": "", "files": [], "checked": 100, "first": None, "a": None, "b": None}
    }
    first = found["first_decision"]
    bar = bars()[99]
    closes_at = int(datetime.fromisoformat(bar["open_time"]).timestamp() * 1000) + MINUTE
    assert first["ts"] == closes_at
    assert first["event"]["event"] == "Kline"
    assert (first["event"]["ts"], first["event"]["close"]) == (closes_at, float(bar["close"]))
    difference = first["difference"]
    assert (difference["number"], difference["event_seq"]) == (1, 100)
    assert (difference["kind_a"], difference["kind_b"]) == ("Order", "")
    assert (difference["a"]["side"], difference["a"]["reason"]) == ("BUY", "as planned")
    assert difference["b"] is None
    assert (len(found["trades"]["only_a"]), len(found["trades"]["only_b"])) == (1, 1)
    text = tapewire("diff", one, other).out
    assert "b: no decision on this event" in text
    assert "decision 1, on event 100" in text


def test_another_size_differs_in_its_quantity(tapewire: Tapewire, run: Callable[..., str]) -> None:
    """10 % and 20 % of 10,000 at the close of bar 100, in lots of 0.001."""
    found = compared(tapewire, run(), run("weight=0.2"))
    close = Decimal(bars()[99]["close"])
    sizes = [
        float(share * 10_000 / close // Decimal("0.001") * Decimal("0.001"))
        for share in (Decimal("0.1"), Decimal("0.2"))
    ]
    assert found["first_decision"]["difference"]["fields"] == [{"name": "qty", "a": sizes[0], "b": sizes[1]}]
    (pair,) = found["trades"]["differing"]
    assert set(pair["differs"]) >= {"qty", "pnl", "fees"}
    assert found["costs_a"]["fees"] > found["costs_b"]["fees"]  # costs are negative
    lead = found["metrics"][0]
    assert lead["name"] == "performance.total_return"
    assert lead["difference"] == pytest.approx(lead["a"] - lead["b"])


def test_other_costs_differ_from_the_first_fill_on(tapewire: Tapewire, run: Callable[..., str]) -> None:
    """The order of bar 100 is filled at the open of bar 101, which event 101 brings."""
    one = run()
    Path("config.toml").write_text('[paper]\ntaker_fee = "0.001"\n')
    found = compared(tapewire, one, run())
    assert [setting["key"] for setting in found["settings"]] == ["paper.taker_fee"]
    difference = found["first_decision"]["difference"]
    assert (difference["event_seq"], difference["kind_a"]) == (101, "Fill")
    assert [field["name"] for field in difference["fields"]] == ["fee"]
    fees = [field["b"] / field["a"] for field in difference["fields"]]
    assert fees == pytest.approx([0.001 / 0.00055])  # the category's taker fee is 0.055 %


def test_a_label_changes_no_number(tapewire: Tapewire, run: Callable[..., str]) -> None:
    found = compared(tapewire, run(), run("label=</script><b>x</b>"))
    assert [one["name"] for one in found["first_decision"]["difference"]["fields"]] == ["reason"]
    assert found["paired"]["difference"]["total_return"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    (pair,) = found["trades"]["differing"]
    assert pair["differs"] == ["reason"]


def test_other_data_are_named_by_their_first_event(
    tapewire: Tapewire, run: Callable[..., str], tmp_path: Path
) -> None:
    lines = SAMPLE.read_text().splitlines()
    words = lines[50].split(",")  # bar 50, after the heading
    columns = lines[0].split(",")
    words[columns.index("volume")] = "1.5"
    changed = tmp_path / "changed.csv"
    changed.write_text("\n".join([*lines[:50], ",".join(words), *lines[51:]]) + "\n")
    found = compared(tapewire, run(), run("first=120", file=changed))
    inputs = found["inputs"]
    assert (inputs["same"], inputs["first"], inputs["checked"]) == (False, 50, 49)
    assert inputs["b"]["volume"] == 1.5
    assert [(file["role"], file["symbol"]) for file in inputs["files"]] == [("klines", "BTCUSDT")]
    assert found["first_decision"] is None  # the data explain the decisions
    assert "the runs had different inputs" in tapewire("diff", "latest", found["a"]["id"]).out


def test_a_missing_file_leaves_the_question_open(
    tapewire: Tapewire, run: Callable[..., str], tmp_path: Path
) -> None:
    copy = tmp_path / "copy.csv"
    copy.write_bytes(SAMPLE.read_bytes())
    one, other = run(file=copy), run("first=120", file=copy)
    copy.unlink()
    found = compared(tapewire, one, other)
    assert found["inputs"]["same"] is None
    assert "does not exist" in found["inputs"]["detail"]
    assert found["first_decision"]["event"] is None
    assert found["first_decision"]["difference"]["event_seq"] == 100


def test_runs_of_other_times_have_no_paired_interval(tapewire: Tapewire, run: Callable[..., str]) -> None:
    one = run("first=5", more=("--end", "2025-03-02T18:00Z"))
    other = run("first=5", more=("--start", "2025-03-02T18:00Z"))
    found = compared(tapewire, one, other)
    assert found["paired"]["absent"] == "the runs have no time in common"
    assert found["paired"]["difference"] is None


def test_the_page_escapes_texts_and_loads_nothing(tapewire: Tapewire, run: Callable[..., str]) -> None:
    hostile = "</script><script>alert(1)</script>"
    done = tapewire("diff", run(f"label={hostile}"), run(), "--html", "diff.html", "--json")
    assert done.code == 0
    assert json.loads(done.out)["html"] == "diff.html"
    page = Path("diff.html").read_text()
    before_scripts = page.partition("<script type=")[0]
    assert "alert(1)" in before_scripts
    assert hostile not in page
    assert "default-src 'none'" in page
    assert "First differing decision" in page


def hourly_bars(path: Path, days: int) -> Path:
    """Write hourly bars of a price that rises and falls by 1 % in turns of 30 bars."""
    rows, price = ["open_time,open,high,low,close,volume"], 100.0
    for hour in range(24 * days):
        before, price = price, price * (1.01 if hour // 30 % 2 else 0.99)
        low, high = sorted((before, price))
        start = 1_740_787_200_000 + hour * 3_600_000
        rows.append(f"{start},{before:.4f},{high:.4f},{low:.4f},{price:.4f},1000")
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.mark.slow
def test_two_walk_forwards(tapewire: Tapewire, tmp_path: Path) -> None:
    """Two folds of 11 days: 22 judged days, of which the intervals are those of the paired daily returns."""
    file = hourly_bars(tmp_path / "BTCUSDT-1h.csv", 23)

    def judged(*settings: str) -> dict[str, Any]:
        sets = [word for setting in settings for word in ("--set", setting)]
        cut = ("--train", "1d", "--test", "11d", "--embargo", "0d", "--warmup", "1d", "--placebo", "0")
        strategy = ("--strategy", "sma_cross", "--set", "slow=12", *sets)
        done = tapewire("walkforward", "--klines", f"BTCUSDT={file}", *strategy, *cut, "-j", "1", "--json")
        assert done.code == 0, done.err
        result: dict[str, Any] = json.loads(done.out)
        return result

    a, b = judged("fast=3"), judged("fast=6")
    found = compared(tapewire, a["id"], b["id"])
    assert found["settings"] == [{"key": "strategy.params.fast", "a": 3, "b": 6, "decides": True}]
    assert found["files"] == []
    assert [(fold["a"]["run"], fold["b"]["run"]) for fold in found["folds"]] == [
        (one["run"], other["run"]) for one, other in zip(a["folds"], b["folds"], strict=True)
    ]
    paired = found["paired"]
    assert (paired["periods"], paired["period"]) == (22, 24 * 60 * MINUTE)
    lead = paired["difference"]["total_return"]
    assert lead["value"] == pytest.approx(a["evidence"]["total_return"] - b["evidence"]["total_return"])
    assert lead["low"] < lead["value"] < lead["high"]
    assert compared(tapewire, a["id"], a["id"])["identical"]
    done = tapewire("diff", a["id"], b["id"], "--html", "wf.html")
    assert done.code == 0
    assert "1 setting differs" in done.out
    assert a["folds"][0]["run"] in Path("wf.html").read_text()
    shown = json.loads(tapewire("runs", "--json").out)
    assert [(row["id"], row["folds"]) for row in shown["runs"]] == [(b["id"], 2), (a["id"], 2)]
    assert shown["runs"][1]["sharpe"] == a["evidence"]["sharpe"]
    unfolded = json.loads(tapewire("runs", "--json", "--folds").out)["runs"][1]["folds"]
    assert [row["id"] for row in unfolded] == [fold["run"] for fold in a["folds"]]
    tapewire("runs", "tag", a["id"], "base")
    gone = json.loads(tapewire("runs", "delete", a["id"], "--yes", "--json").out)
    assert [row["run"] for row in gone["deleted"]] == [fold["run"] for fold in a["folds"]]
    assert gone["kept"] == [f"var/walkforward/{a['id']}"]
    assert [row["id"] for row in json.loads(tapewire("runs", "--json").out)["runs"]] == [b["id"]]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("latest", "nothing"), 2, "no run 'nothing'"),
        (("wf-1", "latest"), 2, "wf-1 is a walk-forward, latest is a run"),
        (("wf-1", "wf-2"), 2, "no walk-forward 'wf-1'"),
        (("latest", "latest", "--html", "page.txt"), 2, "the page is HTML"),
    ],
)
def test_what_can_t_be_compared(
    tapewire: Tapewire, run: Callable[..., str], args: tuple[str, ...], code: int, message: str
) -> None:
    run()
    done = tapewire("diff", *args)
    assert done.code == code
    assert message in done.err
