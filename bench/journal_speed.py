"""Measures what an event costs in the store, and how fast a run's journal is read again; prints JSON.

    python -m bench.journal_speed [--events 200000] [--url postgresql://USER@HOST/NAME] [--against DIR]

The events are states of open bars and closes of two symbols. `append` is CPU time per event of committing
batches of a size; PostgreSQL's own work is not in it. Of three passes over the journal the fastest counts:
`read` verifies the digests and decodes every event, as `tapewire verify` does first, and `fold` also decides
on it with sma_cross, as a restart without a snapshot does. Without `--url` the store is an SQLite file in a
temporary folder.

`codecs` compares the journal's encoding with others on the same events: bytes, and CPU time to encode and to
decode one. `arrays` leaves the fields' names out, `blocks` compresses so many events at once, which can't be
read or appended one by one.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

sys.path.append(str(Path(__file__).resolve().parent.parent))

import msgspec

from agent.cli.console import print_json
from agent.core.engine import Engine
from agent.core.errors import TapewireError
from agent.core.events import Event, Kline
from agent.core.sinks import NullSink
from agent.store.database import Database, open_database
from agent.store.journal import Journal, decode, encode, read_journal
from agent.store.recorder import Recorder
from agent.store.runs import Run, RunKind
from bench import interleaved
from bench.growth import T0, market, settings
from strategies import load_strategy

SYMBOLS: Final = ("S00USDT", "S01USDT")
BATCHES: Final = {1: 500, 20: 200, 200: 50}
"""Batch size -> number of batches that are measured."""
_PASSES: Final = 3
_BLOCK: Final = 256  # events that are compressed at once


class Codec(NamedTuple):
    """An encoding of a list of events, and its inverse."""

    encode: Callable[[list[Kline]], list[bytes]]
    decode: Callable[[list[bytes]], list[Any]]


def _each(write: Callable[[Any], bytes], read: Callable[[bytes], Any]) -> Codec:
    return Codec(lambda events: [write(event) for event in events], lambda parts: [read(p) for p in parts])


def _arrays() -> Codec:
    """The journal's encoding, with an array in place of the fields by name."""
    names = [(field.name, field.type) for field in msgspec.structs.fields(Kline)]
    row = msgspec.defstruct("Row", names, array_like=True, frozen=True, gc=False)
    write, read = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(row).decode
    unpack = msgspec.structs.astuple
    return _each(lambda event: write(unpack(event)), lambda part: Kline(*unpack(read(part))))


def _in_blocks(level: int) -> Codec:
    """The journal's encoding, compressed in blocks."""
    write = msgspec.msgpack.Encoder().encode
    read = msgspec.msgpack.Decoder(list[Event]).decode
    return Codec(
        lambda events: [
            zlib.compress(write(events[at : at + _BLOCK]), level) for at in range(0, len(events), _BLOCK)
        ],
        lambda parts: [event for part in parts for event in read(zlib.decompress(part))],
    )


CODECS: Final[dict[str, Callable[[], Codec]]] = {
    "msgpack (the journal's)": lambda: _each(encode, decode),
    "msgpack, arrays": _arrays,
    "msgpack, zlib 1 each": lambda: _each(
        lambda event: zlib.compress(encode(event), 1), lambda part: decode(zlib.decompress(part))
    ),
    f"msgpack, zlib 1, blocks of {_BLOCK}": lambda: _in_blocks(1),
    f"msgpack, zlib 6, blocks of {_BLOCK}": lambda: _in_blocks(6),
    "JSON (msgspec)": lambda: _each(msgspec.json.Encoder().encode, msgspec.json.Decoder(Event).decode),
    "JSON (standard library)": lambda: _each(
        lambda event: json.dumps(msgspec.structs.asdict(event)).encode(),
        lambda part: Kline(**json.loads(part)),
    ),
}


def codecs(events: Sequence[Event]) -> dict[str, dict[str, float]]:
    """Return bytes and CPU microseconds an event of each codec. Raises ValueError if one loses something."""
    klines = [event for event in events if isinstance(event, Kline)]
    found = {}
    for name, make in CODECS.items():
        codec = make()
        parts = codec.encode(klines)
        if codec.decode(parts) != klines:
            raise ValueError(f"{name} loses something")
        written, read = fastest(partial(codec.encode, klines)), fastest(partial(codec.decode, parts))
        found[name] = {
            "bytes": round(sum(map(len, parts)) / len(klines), 1),
            "encode_us": round(written / len(klines) * 1e6, 3),
            "decode_us": round(read / len(klines) * 1e6, 3),
        }
    return found


def append_all(database: Database, run_id: str, events: Sequence[Event], size: int) -> float:
    """Journal `events` of a new run in batches; return the CPU seconds of the median batch per event."""
    Recorder(database, Run(run_id, RunKind.LIVE, T0, "sma_cross"))
    journal = Journal(database, run_id)
    times = []
    for start in range(0, len(events), size):
        began = time.process_time()
        journal.append(events[start : start + size])
        times.append(time.process_time() - began)
    return sorted(times)[len(times) // 2] / size


def fold(database: Database, run_id: str) -> None:
    """Replay a journal through a fresh engine."""
    engine = Engine(settings(SYMBOLS), load_strategy("sma_cross"), NullSink(), run_id=run_id, equity_block=1)
    for _, event in read_journal(database, run_id):
        engine.handle(event)


def fastest(work: Callable[[], object]) -> float:
    """Return the CPU seconds of the fastest pass."""
    times = []
    for _ in range(_PASSES):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def measure(url: str, file: Path | None, count: int) -> dict[str, Any]:
    """Measure a store, which must be empty."""
    events = list(islice(market(SYMBOLS, count // (60 * len(SYMBOLS)) + 1), count))
    with closing(open_database(url)) as database:
        batches = {
            f"of_{size}": round(append_all(database, f"by-{size}", events[: size * number], size) * 1e6, 2)
            for size, number in BATCHES.items()
        }
        begun = 0 if file is None else _size(file)
        batches["of_1000"] = round(append_all(database, "all", events, 1_000) * 1e6, 2)
        size = None if file is None else (_size(file) - begun) / count
        payload = sum(len(encode(event)) for event in events) / count
        compared = codecs(events[:50_000])
        del events
        read = fastest(lambda: sum(1 for _ in read_journal(database, "all")))
        folded = fastest(lambda: fold(database, "all"))
    return {
        "events": count,
        "payload_bytes_an_event": round(payload, 1),
        "stored_bytes_an_event": None if size is None else round(size, 1),
        "codecs": compared,
        "append_cpu_us_an_event": batches,
        "read": {"cpu_us_an_event": round(read / count * 1e6, 3), "events_a_second": round(count / read)},
        "fold": {"cpu_us_an_event": round(folded / count * 1e6, 3), "events_a_second": round(count / folded)},
    }


def _size(file: Path) -> int:
    """Return the bytes of a store and its write-ahead log's part that is not in it yet, by its pages."""
    with closing(open_database(f"sqlite:///{file}")) as database, database.read() as connection:
        return int(
            connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            * connection.exec_driver_sql("PRAGMA page_size").scalar_one()
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--url", default="", help="an empty database on a PostgreSQL server")
    interleaved.add_arguments(parser)
    given = parser.parse_args()
    if given.against is not None and given.url:
        parser.error("a server's database is used once: --against compares SQLite files")
    if given.against is not None:
        print_json(interleaved.compare(__file__, given))
        return
    with tempfile.TemporaryDirectory(prefix="tapewire-") as folder:
        file = None if given.url else Path(folder) / "journal.db"
        try:
            found = measure(given.url or f"sqlite:///{file}", file, given.events)
        except TapewireError as error:
            sys.exit(f"error: {error}")
    print_json({"benchmark": "journal", "store": "postgresql" if given.url else "sqlite", **found})


if __name__ == "__main__":
    main()
