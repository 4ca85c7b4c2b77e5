"""Lazy merge of sources into one total order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import DataError
from agent.core.events import PRIORITY, Command, Event, Funding, Gap, Kline, News, Sentiment
from agent.data.merge import merge


def event(kind: type, available_at: int, label: int) -> Event:
    """Return an event of `kind`, identified by its label."""
    name = str(label)
    if kind is Kline:
        return Kline(name, 60_000, available_at - 60_000, available_at, available_at, 1.0, 1.0, 1.0, 1.0, 1.0)
    if kind is News:
        return News(name, available_at, available_at, "A headline")
    if kind is Sentiment:
        return Sentiment(name, available_at, available_at, 0.2, 0.3, 0.5)
    if kind is Funding:
        return Funding(name, available_at, available_at, 0.0001)
    if kind is Gap:
        return Gap(name, 60_000, 0, available_at, available_at)
    return Command(name, available_at, available_at)


kinds = st.sampled_from([Kline, News, Sentiment, Funding, Gap, Command])
keys = st.tuples(st.integers(0, 12), kinds)  # few times, so that ties are frequent
streams = st.lists(st.lists(keys, max_size=20), max_size=5).map(
    lambda sources: [
        [
            event(kind, moment, 1000 * number + sequence)
            for sequence, (moment, kind) in enumerate(
                sorted(source, key=lambda key: (key[0], PRIORITY[key[1]]))
            )
        ]
        for number, source in enumerate(sources)
    ]
)


@given(streams)
def test_the_output_is_every_event_in_the_total_order(sources: list[list[Event]]) -> None:
    by_key = sorted(
        (
            (item.available_at, PRIORITY[type(item)], number, sequence, item)
            for number, source in enumerate(sources)
            for sequence, item in enumerate(source)
        ),
        key=lambda row: row[:4],
    )
    merged = list(merge(sources))
    assert [id(item) for item in merged] == [id(row[4]) for row in by_key]


@given(streams, st.data())
def test_splitting_a_source_into_two_neighbours_does_not_change_the_order(
    sources: list[list[Event]], data: st.DataObject
) -> None:
    """If a source is split into two adjacent ones, the events keep their order."""
    split: list[list[Event]] = []
    for source in sources:
        cut = data.draw(st.integers(0, len(source)))
        split += [source[:cut], source[cut:]]
    assert [id(item) for item in merge(split)] == [id(item) for item in merge(sources)]


@given(streams, st.integers(0, 30))
def test_each_source_is_read_at_most_one_event_ahead(sources: list[list[Event]], taken: int) -> None:
    pulled = [0] * len(sources)

    def watched(number: int) -> Iterator[Event]:
        for item in sources[number]:
            pulled[number] += 1
            yield item

    out = list(islice(merge([watched(number) for number in range(len(sources))]), taken))
    if out:
        for number, source in enumerate(sources):
            given_out = sum(any(item is one for one in source) for item in out)
            assert pulled[number] <= given_out + 1


class Named(list[Event]):
    name = "prices.parquet"


@pytest.mark.parametrize(
    ("first", "second", "fragments"),
    [
        (
            (Kline, 120_000),
            (Kline, 60_000),
            ["Kline available at 1970-01-01T00:01:00Z", "after Kline available at 1970-01-01T00:02:00Z"],
        ),
        (
            (News, 60_000),
            (Kline, 60_000),
            ["Kline available at 1970-01-01T00:01:00Z", "after News available at 1970-01-01T00:01:00Z"],
        ),
    ],
)
@pytest.mark.parametrize("others", [0, 1, 3])
def test_the_error_for_a_source_that_goes_backwards_has_both_events(
    first: tuple[type, int], second: tuple[type, int], fragments: list[str], others: int
) -> None:
    source = Named([event(*first, 1), event(*second, 2)])
    rest = [[event(Command, 10_000, 3), event(Funding, 300_000, 4)] for _ in range(others)]
    with pytest.raises(DataError) as error:
        list(merge([*rest, source]))
    assert all(
        fragment in str(error.value) for fragment in ["source prices.parquet goes backwards", *fragments]
    )


def test_the_error_for_a_source_without_a_name_has_its_number() -> None:
    with pytest.raises(DataError, match="source number 2 goes backwards"):
        list(merge([[], [event(Kline, 2, 1), event(Kline, 1, 2)]]))


def test_without_sources_there_are_no_events() -> None:
    assert list(merge([])) == []
    assert list(merge([[], []])) == []
