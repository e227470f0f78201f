"""Writers, readers and watchers of a server that is killed again and again: rows 1 to 4."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from bench.reliability.followers import SELECTORS, Follower, Happened, Truth, Verdict
from bench.reliability.linear import NEVER, Kind, Operation
from bench.reliability.process import FAILURES, Process
from bench.reliability.registers import Register

NAMESPACE = "storm"
PATH = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
PARTS = "abc"
CATCH_UP_SECONDS = 60.0
LEAST_WRITES = 30
"""Before a kill, however slow the machine is."""
PROGRESS = 50


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    kills: int = 0
    events: int = 0
    """Watch events to deliver at least, over all followers."""
    cuts: int = 0
    """Connections of followers to cut while these events are delivered."""
    writers: int = 8
    registers: int = 6
    followers: int = 8
    fails_syncs: bool = False
    """Instead of a kill, the disk fails."""
    seconds: float = 3600.0
    """After which no more servers are killed."""


@dataclass(slots=True)
class Storm:
    """One run. What the counters mean is told by the figures made of them."""

    process: Process
    session: aiohttp.ClientSession
    plan: Plan
    chance: random.Random
    truth: Truth
    followers: list[Follower] = field(default_factory=list)
    registers: list[Register] = field(default_factory=list)
    retired: list[Register] = field(default_factory=list)
    is_over: bool = False
    tally: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    verdict: Verdict = field(default_factory=Verdict)
    newest: int = 0
    """The highest revision that was acknowledged."""
    starts: list[float] = field(default_factory=list)

    # The writers

    def new_register(self) -> Register:
        self.tally["keys"] += 1
        return Register(f"key-{self.tally['keys']}")

    async def write(self) -> None:
        """One writer, until the server is gone, or all is over."""
        while not self.is_over:
            at = self.chance.randrange(len(self.registers))
            register = self.registers[at]
            if register.is_used_up:
                self.registers[at] = self.new_register()
                self.retired.append(register)
                operation = Operation(Kind.DELETE, time.perf_counter(), NEVER)
                is_going_on = await self._change(register, operation, "DELETE", {}, "")
            else:
                register.begun += 1
                is_going_on = await self._step(register)
            if not is_going_on:
                return

    async def _step(self, register: Register) -> bool:
        """One operation on a key; False when its answer is lost."""
        dice, seen, name = self.chance.random(), register.seen, register.name
        called = time.perf_counter()
        if dice < 0.2:
            return await self._read(register, called)
        self.tally["tried"] += 1
        value, part = f"v{self.tally['tried']}", self.chance.choice(PARTS)
        body: dict[str, Any] = {
            "metadata": {"name": name, "labels": {"part": part}},
            "data": {"value": value},
        }
        if seen is None:
            operation = Operation(Kind.SWAP, called, NEVER, value)
            return await self._change(register, operation, "POST", body, part)
        expected, revision = seen
        if dice < 0.3:
            operation = Operation(Kind.SWAP, called, NEVER, None, expected)
            body = {"preconditions": {"resourceVersion": revision}}
            return await self._change(register, operation, "DELETE", body, "")
        operation = Operation(Kind.SWAP, called, NEVER, value, expected)
        body["metadata"]["resourceVersion"] = revision
        return await self._change(register, operation, "PUT", body, part)

    async def _change(
        self, register: Register, doing: Operation, method: str, body: dict[str, Any], part: str
    ) -> bool:
        path = PATH if method == "POST" else f"{PATH}/{register.name}"
        try:
            async with self.session.request(method, path, json=body) as response:
                answer = await response.json()
        except FAILURES:
            return self._lose(register, doing)
        returned, status = time.perf_counter(), response.status
        if status in (404, 409):
            register.refused(self._done(doing, returned, succeeded=False))
            self.tally["refused"] += 1
            return True
        if status not in (200, 201):
            self._note(f"{method} {path} answered {status}: {answer}")
            return self._lose(register, doing)
        done = self._done(doing, returned, succeeded=True)
        revision = 0
        if doing.value is not None:
            revision = int(answer["metadata"]["resourceVersion"])
            self.truth.add(revision, Happened(register.name, doing.value, part))
            self.newest = max(self.newest, revision)
        register.acknowledged(done, revision)
        self.tally["acknowledged"] += 1
        return True

    @staticmethod
    def _done(doing: Operation, returned: float, *, succeeded: bool) -> Operation:
        return Operation(doing.kind, doing.called, returned, doing.value, doing.expected, succeeded)

    def _lose(self, register: Register, doing: Operation) -> bool:
        register.lost(doing)
        self.tally["unknown"] += 1
        return False

    async def _read(self, register: Register, called: float) -> bool:
        dead = set(register.dead)
        try:
            async with self.session.get(f"{PATH}/{register.name}") as response:
                answer = await response.json()
        except FAILURES:
            return False
        if response.status not in (200, 404):
            self._note(f"reading {register.name} answered {response.status}: {answer}")
            return False
        found = None
        if response.status == 200:
            found = (answer["data"]["value"], answer["metadata"]["resourceVersion"])
            self._check_not_dead(register, found[0], dead)
        register.read(called, time.perf_counter(), found)
        self.tally["reads"] += 1
        return True

    def _check_not_dead(self, register: Register, value: str, dead: set[str]) -> None:
        if value in dead:
            self.tally["resurrected"] += 1
            self._note(f"{register.name} shows {value} again")

    def _note(self, note: str) -> None:
        self.notes.append(note)

    def judge_histories(self) -> None:
        """Judge the keys that nobody uses any more. Nobody writes now."""
        for register in self.retired:
            self.tally["checked"] += len(register.history)
            if not register.is_right():
                self.tally["anomalies"] += 1
                self._note(f"{register.name} was no register: {register.history}")
        self.retired.clear()

    # After a kill

    async def check(self) -> None:
        """Compare what every client knows with what there is. Nobody writes now."""
        self.judge_histories()
        called = time.perf_counter()
        async with self.session.get(PATH) as response:
            answer = await response.json()
        returned = time.perf_counter()
        revision = int(answer["metadata"]["resourceVersion"])
        if revision < self.newest:
            self.tally["went back"] += 1
            self._note(f"the revision went back from {self.newest} to {revision}")
        found = {
            each["metadata"]["name"]: (each["data"]["value"], each["metadata"]["resourceVersion"])
            for each in answer["items"]
        }
        for register in self.registers:
            now = found.get(register.name)
            value = now[0] if now is not None else None
            if register.is_lost(value):
                self.tally["lost"] += 1
                self._note(f"{register.name}: {register.newest} was lost, {now} is there")
            if value is not None:
                self._check_not_dead(register, value, register.dead)
            register.read(called, returned, now)

    async def kill(self) -> None:
        if self.plan.fails_syncs and not await self.process.fail_syncs():
            self.tally["went on"] += 1
        await self.process.kill()
        self.tally["kills"] += 1
        records = await asyncio.to_thread(self.process.look)
        self.tally["revision gaps"] += abs(records.missing)
        self.tally["damaged"] += not records.is_whole
        self.tally["compactions"] += records.compacted > self.tally["compacted"]
        self.tally["compacted"] = records.compacted
        if records.newest < self.newest:
            self.tally["went back"] += 1
            self._note(f"{self.newest} was acknowledged, the log ends at {records.newest}")

    # The whole

    async def rounds(self) -> None:
        plan = self.plan
        end = time.monotonic() + plan.seconds
        while self.tally["kills"] < plan.kills and time.monotonic() < end:
            writers = [asyncio.create_task(self.write()) for _ in range(plan.writers)]
            enough = self.tally["acknowledged"] + LEAST_WRITES
            await asyncio.sleep(self.chance.uniform(0.05, 0.8))
            while self.tally["acknowledged"] < enough:
                self._check_alive(writers)
                await asyncio.sleep(0.01)
            self._check_alive(writers)
            await self.kill()
            await asyncio.gather(*writers)
            self.starts.append(await self.process.start(self.session))
            await self.check()
            if self.tally["kills"] % PROGRESS == 0:
                print(f"    {dict(self.tally)}", flush=True)

    async def events(self) -> None:
        """Write until enough events were told over enough connections."""
        plan = self.plan
        for each in self.followers:
            each.cut_after = max(1, plan.events // plan.cuts) if plan.cuts else 0
        writers = [asyncio.create_task(self.write()) for _ in range(plan.writers)]
        try:
            while (
                sum(each.verdict.events for each in self.followers) < plan.events
                or sum(each.verdict.cuts for each in self.followers) < plan.cuts
            ):
                await asyncio.sleep(0.1)
                self._check_alive(writers)
        finally:
            self.is_over = True
            await asyncio.gather(*writers, return_exceptions=True)

    @staticmethod
    def _check_alive(writers: list[asyncio.Task[None]]) -> None:
        for writer in writers:
            if writer.done():
                writer.result()
                raise RuntimeError("a writer lost its connection though nobody cut it")

    async def finish(self) -> None:
        """Let everyone catch up with a last write, and judge."""
        for part in PARTS:
            body = {
                "metadata": {"name": f"last-{part}", "labels": {"part": part}},
                "data": {"value": part},
            }
            async with self.session.post(PATH, json=body) as response:
                answer = await response.json()
            self.newest = int(answer["metadata"]["resourceVersion"])
            self.truth.add(self.newest, Happened(f"last-{part}", part, part))
        async with asyncio.timeout(CATCH_UP_SECONDS):
            while min(each.revision for each in self.followers) < self.newest:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    def judge(self) -> None:
        self.retired += self.registers
        self.judge_histories()
        self.truth.believe(lambda at: any(each.has_seen(at) for each in self.followers))
        expected = {selector: self.truth.expected(selector) for selector in SELECTORS}
        for follower in self.followers:
            found = follower.judge(expected[follower.selector])
            self.verdict.add(found)


async def weather(process: Process, plan: Plan) -> Storm:
    """Run a storm over a server that is not started yet."""
    chance = random.Random(plan.seed)
    async with process.session() as session:
        first = await process.start(session)
        body = {"metadata": {"name": NAMESPACE}}
        async with session.post("/api/v1/namespaces", json=body) as response:
            start = int((await response.json())["metadata"]["resourceVersion"])
        storm = Storm(process, session, plan, chance, Truth(start), starts=[first])
        storm.registers = [storm.new_register() for _ in range(plan.registers)]
        selectors = list(SELECTORS)
        storm.followers = [
            Follower(storm.truth, NAMESPACE, selectors[at % len(selectors)], chance)
            for at in range(plan.followers)
        ]
        tasks = [asyncio.create_task(each.run(session, start)) for each in storm.followers]
        try:
            await storm.rounds()
            await storm.events()
            await storm.finish()
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            await process.kill()
        for end in ends:
            if not isinstance(end, asyncio.CancelledError):
                raise RuntimeError("a follower ended by itself") from end
    storm.judge()
    return storm
