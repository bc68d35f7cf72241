"""Whatever the order in which namespaces come, go and are asked for: in the end there is a bdev for each of them."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import Callable

import pytest
from nvme_initiator import NQN, SECONDS, Initiator, Target, initiator
from nvme_scripted import Queue, scripted
from spdk_emulator.nvme_tcp import nvme
from spdk_emulator.nvme_tcp.nvme import Admin, Cns, Sc

BDEVS = 24
ROUNDS = 20


def _nguid(number: int) -> bytes:
    return bytes([number]) * 16


def _names(node: Initiator) -> set[str]:
    return {bdev.name for bdev in node.app.bdevs}


def _identifies(command: nvme.Command, cns: Cns, nsid: int) -> bool:
    return command.opcode == Admin.IDENTIFY and command.cdw10 == cns and command.nsid == nsid


def test_a_namespace_that_comes_while_the_others_are_learned() -> None:
    async def work() -> None:
        async with scripted() as (controller, port), initiator() as node:
            controller.namespaces = {nsid: _nguid(nsid) for nsid in range(1, 9)}

            def on_admin(queue: Queue, command: nvme.Command) -> bool:
                if not _identifies(command, Cns.ACTIVE_NAMESPACES, 0):
                    return False
                controller.admin(queue, command)
                controller.change({**controller.namespaces, 9: _nguid(9)}, [9])
                return True

            controller.on_admin = on_admin
            await node.attach(port)
            await node.until(lambda: _names(node) == {f"nn{nsid}" for nsid in range(1, 10)})

    asyncio.run(work())


@pytest.mark.parametrize("cns", [Cns.NAMESPACE, Cns.NAMESPACE_DESCRIPTORS])
def test_a_namespace_that_cannot_be_asked_for_takes_no_other_along(cns: Cns) -> None:
    async def work() -> None:
        async with scripted() as (controller, port), initiator() as node:
            await node.attach(port)

            def on_admin(queue: Queue, command: nvme.Command) -> bool:
                fails = _identifies(command, cns, 2)
                if fails:
                    queue.complete(command, Sc.INVALID_FIELD)
                return fails

            controller.on_admin = on_admin
            controller.change({nsid: _nguid(nsid) for nsid in (2, 3)}, [1, 2, 3])
            without_descriptors = {"nn2"} if cns == Cns.NAMESPACE_DESCRIPTORS else set()
            await node.until(lambda: _names(node) == {"nn3"} | without_descriptors)

    asyncio.run(work())


def test_a_list_of_changes_that_cannot_be_read_means_that_all_may_have_changed() -> None:
    async def work() -> None:
        async with scripted() as (controller, port), initiator() as node:
            await node.attach(port)

            def on_admin(queue: Queue, command: nvme.Command) -> bool:
                fails = command.opcode == Admin.GET_LOG_PAGE
                if fails:
                    queue.complete(command, Sc.INTERNAL_ERROR)
                return fails

            controller.on_admin = on_admin
            controller.change({2: _nguid(2)}, [1, 2])
            await node.until(lambda: _names(node) == {"nn2"})

    asyncio.run(work())


def test_a_change_that_is_not_answered_for_is_learned_over_a_new_connection() -> None:
    async def work() -> None:
        async with scripted() as (controller, port), initiator() as node:
            await node.call("bdev_nvme_set_options", tcp_connect_timeout_ms=200)
            await node.attach(port, ctrlr_loss_timeout_sec=-1, reconnect_delay_sec=1)

            def on_admin(queue: Queue, command: nvme.Command) -> bool:
                ignored = _identifies(command, Cns.NAMESPACE, 2)
                if ignored:
                    controller.on_admin = lambda queue, command: False
                return ignored

            controller.on_admin = on_admin
            controller.change({nsid: _nguid(nsid) for nsid in (2, 3)}, [1, 2, 3])
            await node.until(lambda: _names(node) == {"nn2", "nn3"})

    asyncio.run(work())


def test_a_volume_that_moves_to_a_lower_number() -> None:
    async def work() -> None:
        async with scripted() as (controller, port), initiator() as node:
            controller.namespaces = {7: _nguid(1)}
            assert await node.attach(port) == ["nn7"]
            controller.change({3: _nguid(1)}, [3, 7])
            await node.until(lambda: _names(node) == {"nn3"})

    asyncio.run(work())


def test_a_list_of_namespaces_without_end_is_refused() -> None:
    async def work() -> None:
        async with scripted() as (controller, port), initiator() as node:
            controller.namespaces = {nsid: _nguid(1) for nsid in range(1, nvme.NAMESPACE_LIST_LIMIT + 1)}
            async with asyncio.timeout(SECONDS):
                with pytest.raises(OSError, match="Input/output error"):
                    await node.attach(port)

    asyncio.run(work())


@pytest.mark.parametrize("answers_first", [False, True])
def test_a_target_that_says_nothing_is_given_up(answers_first: bool) -> None:
    """Nothing at all, or nothing after the ICReq."""

    async def work() -> None:
        async with scripted() as (controller, port), initiator() as node:
            controller.deaf = True
            silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
            if not answers_first:
                port = silent.sockets[0].getsockname()[1]
            await node.call("bdev_nvme_set_options", tcp_connect_timeout_ms=200)
            async with asyncio.timeout(SECONDS):
                with pytest.raises(OSError, match="Input/output error"):
                    await node.attach(port)
            silent.close()

    asyncio.run(work())


class Pipeline:
    """Calls that are sent all at once, and answered in any order."""

    def __init__(self, target: Target) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(SECONDS)
        self._socket.connect(str(target.socket))
        self._calls: list[bytes] = []

    def add(self, method: str, **params: object) -> None:
        call = {"jsonrpc": "2.0", "id": len(self._calls), "method": method, "params": params}
        self._calls.append(json.dumps(call).encode())

    def run(self) -> None:
        self._socket.sendall(b"".join(self._calls))
        answers = b""
        while answers.count(b"\n") < len(self._calls):
            answers += self._socket.recv(1 << 16)
        failures = [line for line in answers.splitlines() if b'"error"' in line]
        self._calls.clear()
        assert not failures

    def close(self) -> None:
        self._socket.close()


def test_namespaces_that_come_and_go_faster_than_they_are_learned(target: Callable[..., Target]) -> None:
    async def work() -> None:
        choice = random.Random(1)
        calls = Pipeline(place := target())
        for number in range(BDEVS):
            calls.add("bdev_null_create", name=f"null{number}", num_blocks=2048, block_size=512)
        calls.run()
        free = [f"null{number}" for number in range(BDEVS)]
        shown: dict[int, str] = {}
        async with initiator() as node:
            for number in range(ROUNDS):
                for _unused in range(choice.randrange(1, 3 * BDEVS)):
                    if free and (choice.random() < 0.6 or not shown):
                        nsid = choice.choice([nsid for nsid in range(2, 33) if nsid not in shown])
                        shown[nsid] = free.pop(choice.randrange(len(free)))
                        calls.add("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": shown[nsid], "nsid": nsid})
                    else:
                        nsid = choice.choice(sorted(shown))
                        free.append(shown.pop(nsid))
                        calls.add("nvmf_subsystem_remove_ns", nqn=NQN, nsid=nsid)
                done = asyncio.to_thread(calls.run)
                # Every other round begins while the controller is being attached.
                await (done if number % 2 else asyncio.gather(done, node.attach(place.port)))
                await node.until(lambda: _names(node) == {"nn1", *(f"nn{nsid}" for nsid in shown)})
                if number % 2:
                    await node.call("bdev_nvme_detach_controller", name="n")
        calls.close()

    asyncio.run(work())
