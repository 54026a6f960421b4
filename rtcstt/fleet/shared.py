"""One server's part in the shared state: it says that it lives, writes its calls behind, finds those of
others, and takes over what a dead server left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING

from rtcstt.errors import ConfigError
from rtcstt.fleet.clocks import SharedClock
from rtcstt.fleet.mirrors import Mirror, Mirrors
from rtcstt.fleet.node import Node
from rtcstt.fleet.others import Others
from rtcstt.fleet.ownership import Act
from rtcstt.fleet.placement import Load
from rtcstt.fleet.proxy import Proxy
from rtcstt.fleet.state import About, Beat, Counts, Entry, StoreAway, Unreadable, Write
from rtcstt.fleet.sweeper import Sweeper
from rtcstt.fleet.tasks import cancelled, kept_going
from rtcstt.fleet.writer import Writer

if TYPE_CHECKING:
    from rtcstt.fleet.store import Store  # needs redis, which is an extra

log = logging.getLogger(__name__)

RELEASE = "/fleet/release/"  # of a request from one server to another
RELEASED = 204  # its answer, once all is written
LOST = "/fleet/lost/"  # asks whether the gateway of a call is gone
BEAT_S = 1.0
RETRY_S = 0.5
START_S = 10.0  # how long a Redis that is not there is waited for at the start


class Shared:
    """``url``: where other servers reach this one; empty until it is known. ``load``: how busy it is.
    ``take_over`` makes a claimed call of what is known
    of it: its id, what is kept, the new fence, and whether its caller does not come back."""

    def __init__(
        self,
        store: Store,
        node: Node,
        *,
        url: str,
        load: Callable[[], Load],
        grace_s: float,
        keeps_audio: bool,
    ) -> None:
        self.store = store
        self.node = node
        self.clock = SharedClock()
        self.others = Others(node, self.clock)
        self.mirrors = Mirrors(store)
        self.secret = ""
        self.writer = Writer(store, node.name, self.clock, keeps_audio=keeps_audio)
        self.url = url
        self._load = load
        self.grace_ms = round(grace_s * 1000)
        self.prepare: Callable[[str, Entry], Awaitable[None]] | None = None
        self.take_over: Callable[[str, Entry, int, bool], Awaitable[None]] | None = None
        self.is_lost: Callable[[str], bool] = lambda call: False
        "Whether a call of this server has lost its gateway."
        self.on_secret: Callable[[str], None] = lambda secret: None
        "Called when `secret` has changed."
        self.check: Callable[[Entry], None] = lambda entry: None
        "`Unreadable` for a call that this server could not go on with."
        self._epoch = ""
        self._taking: dict[str, asyncio.Task[bool]] = {}
        self._arriving: dict[str, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._moving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Join the fleet. `ConfigError` when Redis is not there, will not do, or has another server with the
        same url."""
        failure = ""
        try:
            async with asyncio.timeout(START_S):
                while True:
                    try:
                        self.secret = await self.store.check()
                        if self.url:
                            await _check_url(self)
                        return
                    except StoreAway as error:
                        log.warning("redis: %s; trying again", error)
                        failure = f" ({error})"
                        await asyncio.sleep(RETRY_S)
        except TimeoutError:
            raise ConfigError(f"redis does not answer within {START_S:g} s{failure}") from None

    def run(self, url: str, proxy: Proxy) -> None:
        """Take part from now on, reachable at ``url``. ``proxy`` reaches the others."""
        self.url = url
        self.others.proxy = proxy
        sweeper = Sweeper(self.node.name, self, self.store, self.others, self.writer, self.grace_ms)
        works = {"heartbeats": self._keep_beating, "writing": self.writer.run, "the sweep": sweeper.run}
        self._tasks = [asyncio.create_task(kept_going(name, work)) for name, work in works.items()]

    async def close(self) -> None:
        """Leave: what is not written yet gets a last chance. Idempotent."""
        with contextlib.suppress(TimeoutError, StoreAway):
            async with asyncio.timeout(START_S):
                await self.writer.finish()
                await self.store.leave(self.node.name)
        await cancelled([*self._tasks, *self._moving, *self._taking.values()])
        await self.mirrors.close()
        await self.store.close()

    def counts(self) -> Counts:
        writer = self.writer
        return Counts(writer.is_away, writer.failures, writer.moved_away, writer.audio_lost)

    # -- calls that move ---------------------------------------------------------------------------

    def has_successor(self) -> bool:
        """Whether another server takes calls."""
        return any(not load.draining and load.busy("call") < 1 for _, load in self.others.loads())

    def own(self, work: Callable[[], Coroutine[object, object, None]]) -> None:
        """Do it in a task of this object."""
        task = asyncio.create_task(work())
        self._moving.add(task)
        task.add_done_callback(self._moving.discard)

    async def take_from_living(self, call: str) -> tuple[Entry, int, bool] | None:
        """Become the owner of a call whose owner still lives, after it has written all it knows; None when it
        has ended, or somebody was quicker. With the new fence, and whether that owner did."""
        entry = await self.store.find(call)
        if entry is None:
            return None
        self.check(entry)
        handed_over = await self.others.ask(entry.owner, RELEASE + call) == RELEASED
        written = await self.store.find(call)  # by that owner, last
        if written is None or (written.owner, written.fence) != (entry.owner, entry.fence):
            return None
        entry = written
        fence = await self.store.claim(call, entry, self.node.name)
        if fence is None:
            return None
        log.info("call %s: moved here from %s", call, entry.owner)
        return entry, fence, handed_over

    # -- the fleet ---------------------------------------------------------------------------------

    async def beat(self) -> Beat:
        """Say that this server lives, and learn who else does."""
        about = _about(self.url, self._load())
        loop = asyncio.get_running_loop()
        before = loop.time()
        beat = await self.store.beat(self.node.name, about, self.secret)
        self.clock.learn(beat.now, before, loop.time())
        return beat

    async def _keep_beating(self) -> None:
        while True:
            try:
                beat = await self.beat()
            except StoreAway as error:
                self.writer.went_away(error)
            except Exception:
                log.exception("a heartbeat failed")
            else:
                self._learn(beat)
                self.writer.came_back()
            await asyncio.sleep(BEAT_S)

    def _learn(self, beat: Beat) -> None:
        self.others.learn(beat)
        if self._epoch and beat.epoch != self._epoch:
            self.writer.all_again()
        self._epoch = beat.epoch
        if beat.secret and beat.secret != self.secret:  # Redis was emptied, and another server is first there
            self.secret = beat.secret
            self.on_secret(beat.secret)
            if self.others.proxy is not None:
                self.others.proxy.renew(beat.secret)

    # -- calls of others ---------------------------------------------------------------------------

    async def view(self, call: str) -> Mirror | None:
        """A call of another server, to be read. `StoreAway`."""
        view = await self.mirrors.find(call)
        if view is not None:
            view.is_orphan = view.state == "open" and self.others.nodes.is_silent(view.entry.owner)
        return view

    async def locate(self, call: str) -> tuple[Act, Entry | None]:
        """What to do with an offer for a call. `StoreAway`."""
        while (arrived := self._arriving.get(call)) is not None:
            await arrived.wait()
        entry = await self.store.find(call)
        if entry is None:
            return Act.UNKNOWN, None
        act = self.others.nodes.on_offer(entry.owner, entry.state)
        if act is Act.OWN and not self.writer.has(call):  # it was claimed, and then Redis went away
            act = Act.CLAIM
        return act, entry

    @contextlib.contextmanager
    def arriving(self, call: str) -> Iterator[None]:
        """While a call of a living server becomes this one's: who asks for it waits."""
        arrived = self._arriving[call] = asyncio.Event()
        try:
            yield
        finally:
            if self._arriving.get(call) is arrived:
                del self._arriving[call]
            arrived.set()

    async def snapshots(self) -> dict[str, Mirror]:
        """Every call of the other servers, in the order of their beginning, without its events."""
        found = await self.store.all()
        return {name: Mirror(name, entry) for name, entry in found.items() if not self.writer.has(name)}

    async def claim(self, call: str, entry: Entry, *, end: bool) -> bool:
        """Take a call over from a dead node; whether it is this node's now. ``end``: its caller does not come
        back. Those who ask at the same time get the same answer."""
        task = self._taking.get(call)
        if task is None:
            task = self._taking[call] = asyncio.create_task(self._claim(call, entry, end))
            task.add_done_callback(lambda _: self._taking.pop(call, None))
        return await asyncio.shield(task)

    async def _claim(self, call: str, entry: Entry, end: bool) -> bool:
        if self.take_over is None:
            return False
        self.check(entry)
        fence = await self.store.claim(call, entry, self.node.name)
        if fence is None:
            return False
        log.info("call %s: taken over from %s", call, entry.owner)
        try:
            await self.take_over(call, entry, fence, end)
        except Exception as error:
            if isinstance(error, StoreAway) and not isinstance(error, Unreadable):
                raise  # it is taken up again when Redis is back
            log.exception("call %s: what is kept of it cannot be read: it ends", call)
            closed: list[str | int | bytes] = ["field", "state", "closed", "end", call]
            await self.store.write(self.node.name, [Write(call, fence, closed, ended=True)])
            return False
        return True


async def _check_url(shared: Shared) -> None:
    """Two servers with one url would get each other's requests. One that was killed is still there for
    some seconds."""
    while True:
        beat = await shared.beat()
        same = [
            name
            for name, about in beat.about.items()
            if about["url"] == shared.url and shared.node.sibling(name) is None
        ]
        if not same:
            return
        log.warning("redis has another server at %s; waiting until it is gone", shared.url)
        try:
            await asyncio.sleep(BEAT_S)
        except asyncio.CancelledError:
            raise ConfigError(
                f"another server has the url {shared.url}: give each its own --node-url"
            ) from None


def _about(url: str, load: Load) -> About:
    return {"url": url, "calls": load.calls, "capacity": load.capacity, "draining": load.draining}
