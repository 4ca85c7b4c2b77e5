"""Two runs have the same chain head exactly if they made the same decisions."""

from __future__ import annotations

from hashlib import blake2b

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from agent.core.events import Direction, RiskEvent, RiskState, Signal
from agent.store.chain import DecisionChain
from tests.store.store_samples import DECISIONS, ONE_OF_EACH, structs

steps = st.tuples(st.one_of(*map(structs, DECISIONS)), st.integers(0, 2**63 - 1))


def digests(chained: list[tuple[object, int]]) -> list[bytes]:
    chain = DecisionChain()
    return [chain.add(decision, event_seq) for decision, event_seq in chained]


def test_a_digest_is_the_hash_of_the_previous_digest_the_event_number_and_the_decision() -> None:
    first, second = ONE_OF_EACH[:2]
    one = blake2b(bytes(16) + (7).to_bytes(8, "big") + msgspec.msgpack.encode(first), digest_size=16).digest()
    two = blake2b(one + (9).to_bytes(8, "big") + msgspec.msgpack.encode(second), digest_size=16).digest()
    assert digests([(first, 7), (second, 9)]) == [one, two]


def test_a_signal_without_a_kind_of_news_has_the_digest_of_earlier_versions() -> None:
    """The digest is that of version 0.1.0, whose signals had no kind."""
    earlier = Signal(
        "BTCUSDT", 1_735_689_600_000, Direction.BUY, 0.9, 0.05, 0.05, 0.9, actionable=True, sources=("n1",)
    )
    (digest,) = digests([(earlier, 7)])
    assert digest.hex() == "a415f64035addd15015af9750412166d"
    assert digests([(msgspec.structs.replace(earlier, kind="access"), 7)]) != [digest]
    read_back = msgspec.msgpack.decode(msgspec.msgpack.encode(earlier), type=Signal)
    assert digests([(read_back, 7)]) == [digest]


@given(st.lists(steps, min_size=1, max_size=5))
def test_the_same_decisions_give_the_same_chain(chained: list[tuple[object, int]]) -> None:
    copies = [(msgspec.structs.replace(decision), event_seq) for decision, event_seq in chained]
    assert digests(copies) == digests(chained)


@given(st.lists(steps, min_size=1, max_size=5), st.data())
def test_a_changed_decision_changes_every_later_digest_and_no_earlier_one(
    chained: list[tuple[object, int]], data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(chained) - 1))
    decision, event_seq = chained[at]
    other, moved = (RiskEvent(1, RiskState.HALTED, "another"), event_seq), (decision, (event_seq + 1) % 2**63)
    changed = [*chained[:at], data.draw(st.sampled_from([other, moved])), *chained[at + 1 :]]
    before, after = digests(chained), digests(changed)
    assert before[:at] == after[:at]
    assert not set(before[at:]) & set(after[at:])


def test_head_and_count_are_updated() -> None:
    chain = DecisionChain()
    assert (chain.count, chain.head) == (0, "00" * 16)
    digest = chain.add(ONE_OF_EACH[0], 1)
    assert (chain.count, chain.head) == (1, digest.hex())
