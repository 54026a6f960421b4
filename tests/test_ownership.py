"""Who has a call: the table, and a fleet whose messages are lost, doubled and late, and whose nodes sleep."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcstt.events import AnyEvent, SttBehind
from rtcstt.feed import Feed
from rtcstt.fleet.clocks import SharedClock
from rtcstt.fleet.journal import KEPT, Batch, Journal, TrackProgress
from rtcstt.fleet.node import Node
from rtcstt.fleet.ownership import DEAD_MS, MISSED_MS, Act, Nodes
from rtcstt.fleet.state import Written
from rtcstt.media.pcm import SAMPLE_RATE, Chunk

CHUNK = SAMPLE_RATE // 10


# -- the table ---------------------------------------------------------------------------------------


def fleet(now: int = 100_000) -> Nodes:
    """`own` with a neighbour that lives, one that drains, and one that has been dead for a second."""
    nodes = Nodes("own")
    for at in range(now - 20_000, now + 1, 1000):
        nodes.beat(at, {"own": at, "lives": at - 900, "drains": at, "dead": now - DEAD_MS - 1000}, {"drains"})
    return nodes


@pytest.mark.parametrize(
    "owner, state, on_offer, on_sweep",
    [
        (None, "open", Act.UNKNOWN, None),
        ("dead", "closed", Act.ENDED, Act.ENDED),
        ("own", "open", Act.OWN, Act.OWN),
        ("lives", "open", Act.PASS_ON, Act.LEAVE),
        ("drains", "open", Act.PREPARE, Act.LEAVE),
        ("dead", "open", Act.CLAIM, Act.CLAIM),
        ("was forgotten", "open", Act.CLAIM, Act.CLAIM),
    ],
)
def test_what_is_done_about_a_call(
    owner: str | None, state: str, on_offer: Act, on_sweep: Act | None
) -> None:
    nodes = fleet()
    assert nodes.on_offer(owner, state) is on_offer
    if owner is not None:
        assert nodes.on_sweep(owner, state, grace_ms=1000) is on_sweep


def test_who_did_not_come_back_is_waited_for() -> None:
    assert fleet().on_sweep("dead", "open", grace_ms=1001) is Act.LEAVE
    assert fleet().gone_ms("dead") == 1000 and fleet().gone_ms("lives") == 0


def test_a_node_that_missed_a_heartbeat_is_silent_before_it_is_dead() -> None:
    nodes = fleet(100_000)
    assert nodes.is_silent("dead") and not nodes.is_silent("lives") and not nodes.is_silent("own")
    nodes.beat(101_000, {"own": 101_000, "lives": 99_100}, set())
    assert nodes.is_silent("lives") and not nodes.is_dead("lives")


def test_a_node_is_dead_when_it_misses_what_others_do_not() -> None:
    nodes = Nodes("own")
    for at in range(0, 5001, 1000):
        nodes.beat(at, {"own": at, "other": 0}, set())
        assert not nodes.is_dead("other")
    nodes.beat(6000, {"own": 6000, "other": 0}, set())
    assert nodes.is_dead("other") and nodes.dead() == ["other"] and not nodes.living()
    nodes.beat(7000, {"own": 7000, "other": 6900}, set())
    assert not nodes.is_dead("other") and nodes.living() == ["other"]


@pytest.mark.parametrize("away_ms", [MISSED_MS + 1, 60_000, 3_600_000])
def test_after_redis_was_away_everybody_has_time_to_be_seen_again(away_ms: int) -> None:
    """Whoever comes back first finds only old heartbeats, and must not take all others for dead."""
    nodes = fleet(100_000)
    back = 100_000 + away_ms
    for at in range(back, back + DEAD_MS + 1, 1000):
        nodes.beat(at, {"own": at, "lives": 99_100, "dead": 94_000}, set())
        assert not nodes.is_dead("lives")
    nodes.beat(back + DEAD_MS + 1000, {"own": 0, "lives": 99_100, "dead": 94_000}, set())
    assert nodes.is_dead("lives")


def test_a_refused_connection_says_it_with_the_first_heartbeat_that_is_missing() -> None:
    nodes = fleet()
    nodes.refused("lives", 100_100)
    nodes.refused("nobody", 100_100)
    assert nodes.on_offer("lives", "open") is Act.PASS_ON, "its port may be closed to this node alone"
    assert nodes.living() == ["drains"], "nothing new goes there"
    nodes.beat(101_000, {"own": 101_000, "lives": 100_050}, set())  # from before
    assert nodes.has_refused("lives") and not nodes.is_dead("lives")
    nodes.beat(102_000, {"own": 102_000, "lives": 100_050}, set())
    assert nodes.on_offer("lives", "open") is Act.CLAIM
    nodes.beat(103_000, {"own": 103_000, "lives": 102_900}, set())
    assert not nodes.is_dead("lives") and "lives" in nodes.living()
    nodes.refused("lives", 103_500)
    nodes.beat(1000, {"own": 1000, "lives": 900}, set())  # Redis' clock was set back
    assert "lives" in nodes.living()


def test_redis_whose_clock_goes_back_kills_nobody() -> None:
    nodes = fleet()
    nodes.beat(10_000, {"own": 10_000, "lives": 99_000}, set())
    assert not nodes.is_dead("lives")


def test_a_node_knows_the_workers_beside_it() -> None:
    node = Node("ab12", 1, "77")
    assert node.name == "ab12.1.77"
    assert node.sibling("ab12.0.99") == 0 and node.sibling("ab12.1.00") == 1
    for other in ("ab13.0.99", "ab12", "ab12.x.1", ""):
        assert node.sibling(other) is None


# -- the journal -------------------------------------------------------------------------------------


@dataclass
class Source:
    feed: Feed = field(default_factory=lambda: Feed("call"))
    tracks: dict[str, TrackProgress] = field(default_factory=dict)
    ended: bool = False
    about: object = "as it began"

    def since(self, after: int, most: int) -> Sequence[AnyEvent]:
        return self.feed.since(after, most)

    def progress(self) -> Mapping[str, TrackProgress]:
        return self.tracks

    def snapshot(self) -> Mapping[str, Any]:
        return {"time": self.feed.published}

    def record(self) -> Mapping[str, Any]:
        return {"about": self.about}

    @property
    def dropped(self) -> int:
        return self.feed.dropped

    def say(self, who: str = "") -> None:
        self.feed.publish(SttBehind(track=who or "0", lag=1.0), time=0.0)


def operations(batch: Batch | None) -> dict[str, list[tuple[Any, ...]]]:
    """By their name."""
    lengths = {"event": 2, "field": 2, "track": 2, "audio": 3, "trim": 2}
    found: dict[str, list[tuple[Any, ...]]] = {}
    rest = list(batch.operations) if batch else []
    while rest:
        name = str(rest.pop(0))
        found.setdefault(name, []).append(tuple(rest.pop(0) for _ in range(lengths[name])))
    return found


def chunk(index: int) -> Chunk:
    return Chunk(np.full(CHUNK, index, np.int16), index * CHUNK)


def test_each_event_is_written_once_and_again_after_redis_forgot() -> None:
    source = Source()
    journal = Journal(source, fence=1)
    for _ in range(3):
        source.say()
    batch = journal.batch(0.0)
    assert [id for id, _ in operations(batch)["event"]] == [1, 2, 3]
    assert operations(journal.batch(0.1))["event"] == operations(batch)["event"], "it was not written"
    assert batch is not None
    journal.wrote(batch)
    assert journal.batch(0.2) is None
    source.say()
    assert [id for id, _ in operations(journal.batch(0.3))["event"]] == [4]
    journal.forgotten()
    assert [id for id, _ in operations(journal.batch(0.4))["event"]] == [1, 2, 3, 4]
    assert not journal.known


def test_what_changed_of_a_call_as_a_whole_is_written_once() -> None:
    source = Source()
    journal = Journal(source, fence=1)

    def written() -> list[Any]:
        source.say()
        batch = journal.batch(0.0)
        assert batch is not None
        journal.wrote(batch)
        fields = dict(operations(batch).get("field", ()))
        return [json.loads(fields[name]) for name in fields if name == "record"]

    assert written() == [], "it is created with it"
    source.about = "otherwise"
    assert written() == [{"about": "otherwise"}] and written() == []
    journal = Journal(source, fence=2, written=1)
    assert written() == [{"about": "otherwise"}], "the other server's is not this one's"


def test_audio_is_kept_from_the_floor_on() -> None:
    source = Source()
    journal = Journal(source, fence=1)
    for index in range(40):
        journal.write("0", chunk(index))
    source.tracks["0"] = TrackProgress(0, {"floor": 0})
    first = journal.batch(0.0)
    assert first is not None
    found = operations(first)
    assert [start for _, start, _ in found["audio"]] == [1 + index * CHUNK for index in range(40)]
    assert found["audio"][7][2] == np.full(CHUNK, 7, "<i2").tobytes()
    assert json.loads(found["track"][0][1]) == {"floor": 0}
    journal.wrote(first)
    source.tracks["0"] = TrackProgress(25 * CHUNK, {"floor": 25 * CHUNK})
    second = journal.batch(1.0)
    assert second is not None
    assert operations(second)["trim"] == [("0", 25 * CHUNK + 1)]
    journal.wrote(second)
    journal.forgotten()
    rest = [start for _, start, _ in operations(journal.batch(2.0))["audio"]]
    assert rest == [1 + index * CHUNK for index in range(25, 40)]


def test_what_redis_missed_for_too_long_is_bounded_and_counted() -> None:
    source = Source()
    source.tracks["0"] = TrackProgress(0, {})
    journal = Journal(source, fence=1)
    kept = KEPT // CHUNK
    for index in range(kept + 100):
        journal.write("0", chunk(index))
    assert journal.audio_lost == 100 * CHUNK
    written = []
    while (batch := journal.batch(0.0)) is not None:
        written += [start for _, start, _ in operations(batch).get("audio", [])]
        journal.wrote(batch)
    assert written == [1 + index * CHUNK for index in range(100, kept + 100)]
    Journal(source, fence=1, keeps_audio=False).write("0", chunk(0))


def test_the_end_is_written_last_and_once() -> None:
    source = Source()
    journal = Journal(source, fence=1)
    for _ in range(450):
        source.say()
    source.ended = True
    ends = []
    while (batch := journal.batch(0.0)) is not None:
        ends.append(batch.ended)
        journal.wrote(batch)
    assert ends == [False, False, True] and journal.done
    assert journal.batch(9.0) is None
    journal.forgotten()
    assert not journal.done and journal.batch(10.0) is not None


@given(
    clocks=st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), spoken=st.floats(0, 1e4), way_s=st.floats(0, 0.1)
)
def test_servers_whose_clocks_differ_mean_the_same_moment(
    clocks: tuple[float, float], spoken: float, way_s: float
) -> None:
    """Each learns Redis' time from its own heartbeats, whose answers take a while."""
    one, other = SharedClock(), SharedClock()
    for clock, apart in zip((one, other), clocks, strict=True):
        now_ms = round(1e12)
        clock.learn(now_ms, apart, apart + way_s)
        clock.learn(now_ms + 1000, apart + 1.0, apart + 1.0 + way_s)
    there = other.to_loop(one.to_shared(clocks[0] + spoken))
    assert abs(there - (clocks[1] + spoken)) <= way_s + 0.01


# -- a fleet -----------------------------------------------------------------------------------------


class Register:
    """One call in the shared state; what lua/write.lua, create.lua and claim.lua do. test_shared.py holds
    the scripts against this."""

    def __init__(self) -> None:
        self.owner, self.fence, self.events = "", -1, {}  # type: ignore[var-annotated]

    def create(self, node: str, fence: int) -> Written:
        if self.fence > fence or (self.fence == fence and self.owner != node):
            return Written.LOST
        self.owner, self.fence, self.events = node, fence, {}
        return Written.OK

    def write(self, node: str, fence: int, events: list[tuple[int, str]]) -> Written:
        if self.fence > fence or (self.fence == fence and self.owner != node):
            return Written.LOST
        if self.fence < fence:
            return Written.UNKNOWN
        for id, event in events:
            if id > max(self.events, default=0):
                self.events[id] = event
        return Written.OK

    def claim(self, node: str, owner: str, fence: int) -> int | None:
        if self.fence < 0 or (self.owner, self.fence) != (owner, fence):
            return None
        self.owner, self.fence = node, fence + 1
        return self.fence


class Simulated:
    """A node with its copy of the call, whose messages to the register may take any time."""

    def __init__(self, name: str, register: Register, chance: random.Random) -> None:
        self.name, self.register, self.chance = name, register, chance
        self.source: Source | None = None
        self.journal: Journal | None = None
        self.flying: list[tuple[Batch, int, list[tuple[int, str]]]] = []
        self.sleeps = False

    def begin(self, fence: int, events: Mapping[int, str]) -> None:
        self.source = Source()
        for id in sorted(events):
            self.source.feed.restore(SttBehind(track=events[id], lag=1.0, call="call", seq=id - 1))
        self.journal = Journal(self.source, fence=fence, written=len(events) - 1)

    def step(self) -> None:
        if self.sleeps or self.journal is None or self.source is None:
            return
        if self.chance.random() < 0.5:
            self.source.say(self.name)
        batch = self.journal.batch(0.0)
        if batch is not None:
            # All that the journal holds is Python's own: what is on its way is a copy.
            events = [(id, json.loads(text)["track"]) for id, text in operations(batch).get("event", [])]
            self.flying.append((batch, self.journal.fence, events))
        self.arrive()

    def arrive(self) -> None:
        """Some message reaches the register: not always, not once, not in order."""
        if not self.flying or self.chance.random() < 0.3:
            return
        batch, fence, events = self.flying.pop(self.chance.randrange(len(self.flying)))
        for _ in range(self.chance.choice((0, 1, 1, 1, 2))):
            if self.journal is None:
                self.register.write(self.name, fence, events)  # of a journal that is gone
                continue
            if not self.journal.known:
                self.journal.known = self.register.create(self.name, fence) is Written.OK
            outcome = self.register.write(self.name, fence, events)
            if self.chance.random() < 0.2:
                continue  # the answer is lost
            if outcome is Written.LOST:
                self.journal = self.source = None
            elif outcome is Written.UNKNOWN:
                self.journal.forgotten()
            elif batch.seq > self.journal._written:
                self.journal.wrote(batch)


@given(seed=st.integers(0, 2**32))
def test_numbers_have_no_holes_and_no_doubles_whoever_wrote_them(seed: int) -> None:
    """Writes of one node go out one after the other, as `Shared` sends them; between nodes anything goes."""
    chance = random.Random(seed)
    register = Register()
    nodes = [Simulated(name, register, chance) for name in "abc"]
    nodes[0].begin(1, {})
    for _ in range(150):
        for node in nodes:
            if len(node.flying) < 1 or node.sleeps:
                node.step()
            else:
                node.arrive()
            if chance.random() < 0.02:
                node.sleeps = not node.sleeps
        if chance.random() < 0.05:  # somebody takes the owner for dead, rightly or not
            other = chance.choice(nodes)
            seen = (register.owner, register.fence)
            if register.fence >= 1 and other.name != register.owner:
                fence = register.claim(other.name, *seen)
                if fence is not None:
                    other.begin(fence, register.events)
        assert sorted(register.events) == list(range(1, len(register.events) + 1))
    for node in nodes:  # everybody wakes: who slept is told, and writes nothing
        node.sleeps = False
    before, owner = dict(register.events), register.owner
    for node in nodes:
        if node.name != owner:
            for _ in range(20):
                node.step()
    if register.fence > 1:
        assert register.events == before
    for id, writer in before.items():
        assert register.events[id] == writer, "what was written changed"


def test_a_node_that_slept_writes_nothing() -> None:
    register = Register()
    sleeper, other = Simulated("a", register, random.Random(1)), Simulated("b", register, random.Random(2))
    sleeper.begin(1, {})
    while len(register.events) < 5:
        sleeper.step()
    fence = register.claim("b", "a", 1)
    assert fence == 2
    other.begin(fence, register.events)
    kept = dict(register.events)
    for _ in range(100):
        sleeper.step()
    assert register.events == kept and sleeper.journal is None
    while len(register.events) < 10:
        other.step()
    assert all(register.events[id] == writer for id, writer in kept.items())


def test_redis_that_forgot_gets_all_of_it_again_from_its_owner_alone() -> None:
    register = Register()
    old, new = Simulated("a", register, random.Random(1)), Simulated("b", register, random.Random(2))
    old.begin(1, {})
    while len(register.events) < 5:
        old.step()
    new.begin(register.claim("b", "a", 1) or 0, register.events)
    register.owner, register.fence, register.events = "", -1, {}
    for node in (old, new):
        assert node.journal is not None
        node.journal.forgotten()
    for _ in range(200):  # whoever comes first: in the end it is the one with the higher fence
        old.step()
        new.step()
    assert (register.owner, register.fence) == ("b", 2)
    assert old.journal is None and sorted(register.events) == list(range(1, len(register.events) + 1))
    assert [register.events[id] for id in range(1, 6)] == ["a"] * 5
