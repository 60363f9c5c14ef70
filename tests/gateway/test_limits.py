"""What a gateway holds, and whom it lets in: memory, turns, connections. Numbers are rows of the fault table."""

from __future__ import annotations

import asyncio
import gzip
import json
from itertools import pairwise

import pytest

from llmux.descriptors import Shares, share
from llmux.errors import WaitTimeoutError
from llmux.gateway import Backend, GatewaySettings, Limit
from llmux.gateway.turns import AT_ONCE, Turns
from tests.gateway.peers import FakeBackend, Rig, chat, rig, until

pytestmark = pytest.mark.anyio


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.fault(12)
async def test_heads_and_what_is_pipelined_count_as_buffered() -> None:
    async with rig() as gateway:
        gateway.scheduler.hold = True
        client = await gateway.client()
        first, second = chat(b'{"model": "m"}', b"X-Large: " + b"x" * 5000), chat(b'{"model": "m", "n": 2}')
        await client.send(first + second)
        await until(lambda: bool(gateway.scheduler.waiting))
        assert gateway.gateway.buffered_bytes == len(first) + len(second)
        await client.send(chat())
        await until(lambda: gateway.gateway.buffered_bytes == len(first) + len(second) + len(chat()))
        gateway.scheduler.hold = False
        gateway.scheduler.grant()
        for _ in range(3):
            assert (await client.receive()).status == 200
        await until(lambda: gateway.gateway.buffered_bytes == 0)


@pytest.mark.fault(12)
async def test_half_a_head_counts_as_buffered() -> None:
    async with rig() as gateway:
        client = await gateway.client()
        await client.send(chat()[:40])
        await until(lambda: gateway.gateway.buffered_bytes == 40)


@pytest.mark.fault(12)
async def test_what_is_pipelined_past_the_budget_is_not_kept_and_the_connection_says_so() -> None:
    async with rig(settings=GatewaySettings(max_buffered_bytes=1000)) as gateway:
        gateway.scheduler.hold = True
        client = await gateway.client()
        await client.send(chat())
        await until(lambda: bool(gateway.scheduler.waiting))
        await client.send(chat(b'{"model": "m", "x": "' + b"x" * 2000 + b'"}'))
        await until(lambda: gateway.observer.limits == [Limit.BUFFERED])
        assert gateway.gateway.buffered_bytes == len(chat())
        gateway.scheduler.grant()
        assert (await client.receive()).status == 200
        assert await client.rest() == b"", "the second one was not served, and the end of the connection tells"
        assert len(gateway.backend.requests) == 1


@pytest.mark.fault(15)
async def test_an_answer_left_unread_counts_as_buffered_until_its_client_is_gone() -> None:
    async with rig() as gateway:
        gateway.backend.play(b"HTTP/1.1 200 OK\r\nContent-Length: 30000000\r\n\r\n" + b"x" * 30_000_000)
        client = await gateway.client(receive_buffer=4096)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is a full transport
        await client.send(chat())
        await until(lambda: gateway.gateway.buffered_bytes > 1000)
        assert gateway.gateway.buffered_bytes < 1_000_000, "no more than a read or two, whatever the backend sends"
        client.reset()
        await until(lambda: gateway.gateway.buffered_bytes == 0)


# --- compressed bodies ------------------------------------------------------------------------------------------------


@pytest.mark.fault(13)
async def test_13_a_compressed_body_is_never_inflated() -> None:
    """A bomb: 100 MB of zeros in 100 KB, which does not name a model before it is inflated."""
    bomb = gzip.compress(b'{"model": "m", "x": "' + b"0" * 100_000_000 + b'"}', compresslevel=1)
    assert len(bomb) < 1_000_000
    async with rig() as gateway:
        refused = await gateway.ask(chat(bomb, b"Content-Encoding: gzip"))
        assert refused.status == 415
        assert json.loads(refused.body)["error"]["code"] == "unsupported_encoding"
        assert not gateway.backend.requests
        relayed = await gateway.ask(chat(bomb, b"Content-Encoding: gzip", path=b"/upstream/m/v1/chat/completions"))
        assert relayed.status == 200
        assert gateway.backend.requests[0].body == bomb


# --- turns ------------------------------------------------------------------------------------------------------------


async def test_those_who_are_granted_together_are_forwarded_a_few_at_a_time() -> None:
    async with rig() as gateway:
        gateway.scheduler.hold = True
        clients = [await gateway.client() for _ in range(3 * AT_ONCE)]
        for client in clients:
            await client.send(chat())
        await until(lambda: len(gateway.scheduler.waiting) == len(clients))
        gateway.scheduler.grant()
        assert gateway.gateway.buffered_bytes, "nothing has been forwarded inside the grant"
        for client in clients:
            assert (await client.receive()).status == 200


async def test_those_who_are_refused_together_are_told_a_few_at_a_time() -> None:
    async with rig() as gateway:
        gateway.scheduler.hold = True
        clients = [await gateway.client() for _ in range(3 * AT_ONCE)]
        for client in clients:
            await client.send(chat())
        await until(lambda: len(gateway.scheduler.waiting) == len(clients))
        gateway.scheduler.refuse(WaitTimeoutError("too late"))
        assert gateway.observer.done == []
        for client in clients:
            assert (await client.receive()).status == 504


@pytest.mark.fault(25)
@pytest.mark.parametrize("how", ["grant", "refuse"])
async def test_25_leaving_between_the_decision_and_ones_turn_leaves_nothing_behind(how: str) -> None:
    async with rig() as gateway:
        gateway.scheduler.hold = True
        clients = [await gateway.client() for _ in range(2 * AT_ONCE)]
        for client in clients:
            await client.send(chat())
        await until(lambda: len(gateway.scheduler.waiting) == len(clients))
        if how == "grant":
            gateway.scheduler.grant()
        else:
            gateway.scheduler.refuse(WaitTimeoutError("too late"))
        gateway.gateway.abort_all()  # before anybody's turn
        assert not gateway.scheduler.granted
        await until(lambda: gateway.gateway.connections == 0)
        assert not gateway.backend.requests
        assert gateway.gateway.buffered_bytes == 0


async def test_an_aborted_grant_is_not_forwarded_when_its_turn_comes() -> None:
    async with rig() as gateway:
        gateway.scheduler.hold = True
        client = await gateway.client()
        await client.send(chat())
        await until(lambda: bool(gateway.scheduler.waiting))
        gateway.scheduler.grant()
        gateway.scheduler.abort("the drain took too long")
        assert (await client.receive()).status == 503
        assert not gateway.backend.requests


async def test_others_run_between_the_turns() -> None:
    turns = Turns(asyncio.get_running_loop())
    order: list[str] = []

    class One:
        def proceed(self) -> None:
            order.append("turn")

        def broken(self) -> None: ...

    for _ in range(2 * AT_ONCE + 1):
        turns.take(One())
    assert order == []
    for _ in range(3):
        await asyncio.sleep(0)
        order.append("other")
    assert order.index("other") == AT_ONCE
    assert order.count("turn") == 2 * AT_ONCE + 1


class Rounds:
    """Notes after every round of the loop how many requests the scheduler has been told of, and how many left it."""

    def __init__(self, gateway: Rig) -> None:
        self._scheduler = gateway.scheduler
        self._loop = asyncio.get_running_loop()
        self.arrived = [0]
        self.left = [0]
        self._note()

    def _note(self) -> None:
        self.arrived.append(len(self._scheduler.arrivals))
        self.left.append(len(self._scheduler.lefts))
        self._handle = self._loop.call_soon(self._note)

    def stop(self) -> None:
        self._handle.cancel()

    @staticmethod
    def most(counts: list[int]) -> int:
        """The most in one round."""
        return max(later - earlier for earlier, later in pairwise(counts))


#: Those that get on at once, those whose turn it is, and those of a round of the loop that is not the test's.
MOST_IN_A_ROUND = 3 * AT_ONCE


@pytest.mark.fault(52)
async def test_52_clients_that_send_and_leave_in_one_instant_take_turns_and_none_is_forgotten() -> None:
    async with rig() as gateway:
        gateway.scheduler.hold = True
        clients = [await gateway.client() for _ in range(8 * AT_ONCE)]
        rounds = Rounds(gateway)
        for client in clients:
            client.writer.write(chat())
        await until(lambda: len(gateway.scheduler.waiting) == len(clients))
        assert gateway.gateway.buffered_bytes == len(clients) * len(chat())
        assert rounds.most(rounds.arrived) <= MOST_IN_A_ROUND
        for client in clients:
            client.reset()
        await until(lambda: len(gateway.scheduler.lefts) == len(clients))
        assert rounds.most(rounds.left) <= MOST_IN_A_ROUND
        await until(lambda: gateway.gateway.connections == 0)
        assert gateway.gateway.buffered_bytes == 0
        rounds.stop()


@pytest.mark.fault(52)
async def test_52_requests_that_come_in_pieces_while_others_take_turns_are_read_whole() -> None:
    async with rig() as gateway:
        clients = [await gateway.client() for _ in range(4 * AT_ONCE)]
        bodies = [b'{"model": "m", "n": %d}' % number for number in range(len(clients))]
        for cut in (0, 30), (30, -5), (-5, None):
            for client, body in zip(clients, bodies, strict=True):
                client.writer.write(chat(body)[slice(*cut)])
            await asyncio.sleep(0)
        for client in clients:
            assert (await client.receive()).status == 200
        assert sorted(request.body for request in gateway.backend.requests) == sorted(bodies)
        assert gateway.gateway.buffered_bytes == 0


@pytest.mark.fault(24, 25)
async def test_clients_that_leave_before_their_requests_turn_were_never_heard_of() -> None:
    async with rig() as gateway:
        gateway.scheduler.hold = True
        clients = [await gateway.client() for _ in range(8 * AT_ONCE)]
        for client in clients:
            client.writer.write(chat())
        for client in clients:
            client.reset()
        await until(lambda: gateway.gateway.connections == 0)
        assert len(gateway.scheduler.arrivals) < len(clients)
        assert not gateway.scheduler.waiting
        assert gateway.gateway.buffered_bytes == 0


@pytest.mark.fault(12)
async def test_12_what_waits_for_its_turn_counts_as_buffered_and_is_refused_past_the_budget() -> None:
    async with rig(settings=GatewaySettings(max_buffered_bytes=AT_ONCE * len(chat()))) as gateway:
        gateway.scheduler.hold = True
        clients = [await gateway.client() for _ in range(4 * AT_ONCE)]
        for client in clients:
            client.writer.write(chat())
        refused = 3 * AT_ONCE
        await until(lambda: gateway.observer.limits.count(Limit.BUFFERED) == refused)
        assert len(gateway.scheduler.waiting) == AT_ONCE
        gateway.scheduler.grant()
        statuses = [(await client.receive()).status for client in clients]
        assert sorted(statuses) == [200] * AT_ONCE + [503] * refused
        await until(lambda: gateway.gateway.buffered_bytes == 0)


async def test_the_first_of_a_round_get_on_at_once_and_the_count_begins_anew_in_the_next() -> None:
    turns = Turns(asyncio.get_running_loop())
    assert [turns.at_once() for _ in range(2 * AT_ONCE)] == [True] * AT_ONCE + [False] * AT_ONCE
    await asyncio.sleep(0)
    assert turns.at_once()


async def test_a_fault_in_one_turn_ends_that_one_and_holds_up_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """One exception in the middle of a round: those behind it, and all later ones, have their turn."""
    backend = FakeBackend()
    await backend.start()
    async with rig(backend=backend, others={"other": Backend("other", backend.address)}) as gateway:
        pools = gateway.gateway._shared.pools
        gateway.scheduler.hold = True
        first, second = await gateway.client(), await gateway.client()
        await first.send(chat(b'{"model": "other"}'))
        await until(lambda: len(gateway.scheduler.waiting) == 1)
        await second.send(chat())
        await until(lambda: len(gateway.scheduler.waiting) == 2)
        pool = pools.pop("other")  # which must never be
        gateway.scheduler.hold = False
        gateway.scheduler.grant()
        answer = await first.receive()
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (500, "internal_error")
        assert (await second.receive()).status == 200
        pools["other"] = pool
        for body in (b'{"model": "other"}', b'{"model": "m"}'):
            gateway.scheduler.hold = True
            await second.send(chat(body))
            await until(lambda: len(gateway.scheduler.waiting) == 1)
            gateway.scheduler.grant()
            assert (await second.receive()).status == 200
    assert [record.levelname for record in caplog.records if "internal_error" in record.getMessage()] == ["ERROR"]


# --- connections ------------------------------------------------------------------------------------------------------


@pytest.mark.fault(54)
async def test_54_accepting_pauses_at_the_limit_and_goes_on_when_somebody_leaves() -> None:
    async with rig(settings=GatewaySettings(max_connections=2)) as gateway:
        gateway.scheduler.hold = True
        first, second = await gateway.client(), await gateway.client()
        for client in (first, second):
            await client.send(chat())
        await until(lambda: len(gateway.scheduler.waiting) == 2)
        third = await gateway.client()  # the kernel has it
        await third.send(chat())
        await until(lambda: Limit.DESCRIPTORS in gateway.observer.limits)
        assert gateway.gateway.connections == 2
        await asyncio.sleep(0.6)  # longer than two looks: nobody makes room, and nobody gets in
        assert gateway.gateway.connections == 2
        await first.close()
        await until(lambda: len(gateway.scheduler.arrivals) == 3)
        gateway.scheduler.hold = False
        gateway.scheduler.grant()
        assert (await second.receive()).status == 200
        assert (await third.receive()).status == 200


async def test_a_pause_survives_many_times_and_the_address_stays() -> None:
    async with rig(settings=GatewaySettings(max_connections=1)) as gateway:
        address = gateway.gateway.addresses
        for _ in range(20):
            client = await gateway.client()
            await client.send(chat())
            assert (await client.receive()).status == 200
            await client.close()
        assert gateway.gateway.addresses == address
        assert gateway.backend.requests[-1].body == b'{"model": "m"}'


async def test_whoever_connects_during_a_pause_is_refused_at_the_end() -> None:
    async with rig(settings=GatewaySettings(max_connections=1)) as gateway:
        await gateway.client()
        await until(lambda: Limit.DESCRIPTORS in gateway.observer.limits)
        gateway.gateway.stop_accepting()
        with pytest.raises(ConnectionRefusedError):
            await gateway.client()


@pytest.mark.parametrize(
    ("available", "used", "most", "shares"),
    [
        (None, 10, [None], Shares(None, 64)),
        (1024, 12, [None, None], Shares(430, 30)),
        (20_000, 12, [None], Shares(9884, 64)),
        (20_000, 12, [256, 256], Shares(19_188, 64)),
        (64, 12, [None], Shares(10, 1)),
        (32, 30, [None] * 10, Shares(1, 1)),
    ],
)
def test_descriptors_are_shared(available: int | None, used: int, most: list[int | None], shares: Shares) -> None:
    found = share(available, used, most, 64)
    assert found == shares
    if available is not None and available > 1000 and found.clients is not None:
        backends = found.clients if None in most else sum(one or 0 for one in most)
        idle = found.idle * (len(most) + 2)
        assert used + found.clients + backends + idle <= available, "nobody goes without"
