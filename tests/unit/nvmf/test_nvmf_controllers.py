"""Connecting, properties, identify, features, log pages, events, keep alive."""

from __future__ import annotations

import asyncio
import base64
import struct
import uuid
import zlib

import pytest
from nvmf_host import World, with_world
from spdk_emulator.bdev.malloc import MallocBdev
from spdk_emulator.bdev.null import NullBdev
from spdk_emulator.nvme_tcp import auth, nvme
from spdk_emulator.nvme_tcp.nvme import Admin, Cns, Fabrics, Feature, Io, Lid, Property, Sc
from spdk_emulator.nvmf.models import Referral
from spdk_emulator.nvmf.subsystem import Address, Host, NvmfError, is_valid_nqn
from support.host_queue import HOST_NQN, NQN, Queue
from support.ports import free_port

IN_DATA = 1 << 16


# Who may connect


@pytest.mark.parametrize(
    ("options", "status", "value"),
    [
        ({"nqn": "nqn.2016-06.io.spdk:none"}, Sc.CONNECT_INVALID_PARAMETERS, IN_DATA | 256),
        ({"cntlid": 1}, Sc.CONNECT_INVALID_PARAMETERS, IN_DATA | 16),
        ({"size": 1}, Sc.CONNECT_INVALID_PARAMETERS, 44),
        ({"size": 129}, Sc.CONNECT_INVALID_PARAMETERS, 44),
        ({"qid": 1, "cntlid": 77}, Sc.CONNECT_INVALID_PARAMETERS, IN_DATA | 16),
        ({"host": "x" * 256}, Sc.CONNECT_INVALID_PARAMETERS, IN_DATA | 512),
    ],
)
def test_a_wrong_connect_says_what_is_wrong(options: dict, status: int, value: int) -> None:
    async def test(world: World) -> None:
        queue = await world.queue()
        done = await queue.connect(**options)
        assert (done.status, done.cdw0) == (status, value)
        assert (await queue.connect()).status == 0

    with_world(test)


def test_only_admitted_hosts_connect() -> None:
    async def test(world: World) -> None:
        world.subsystem.set_allow_any_host(False)
        queue = await world.queue()
        assert (await queue.connect()).status == Sc.CONNECT_INVALID_HOST
        world.subsystem.add_host(Host(HOST_NQN))
        assert (await queue.connect()).status == 0
        world.subsystem.remove_host(HOST_NQN)
        assert await queue.is_closed()
        assert not world.subsystem.controllers

    with_world(test)


def test_a_host_reaches_a_subsystem_only_at_its_listeners() -> None:
    async def test(world: World) -> None:
        port = free_port()
        await world.target.add_listener(world.target.subsystem(nvme.DISCOVERY_NQN), world.address(port))
        assert (await (await world.queue(port=port)).connect()).status == Sc.CONNECT_INVALID_HOST

    with_world(test)


class Key:
    """What the target wants of a key: its secret, and to be let go of."""

    name = "key0"

    def __init__(self, key: bytes) -> None:
        self.key = key

    def read(self) -> bytes:
        return b"DHHC-1:00:" + base64.b64encode(self.key + zlib.crc32(self.key).to_bytes(4, "little")) + b":"

    def put(self) -> None:
        pass


@pytest.mark.parametrize("command", [(nvme.FABRICS_OPCODE, Fabrics.PROPERTY_GET, (0, 0x1C)), (Admin.IDENTIFY, 0, (1,))])
def test_a_host_with_a_key_gets_nowhere_without_authentication(command: tuple) -> None:
    async def test(world: World) -> None:
        world.subsystem.add_host(Host(HOST_NQN, Key(bytes(32))))  # type: ignore[arg-type]
        queue = await world.queue()
        done = await queue.connect()
        assert (done.status, done.cdw0 >> 16) == (0, 2)
        opcode, nsid, cdws = command
        assert (await queue.run(opcode, nsid, cdws, length=4096))[0].status == Sc.AUTHENTICATION_REQUIRED
        io = await world.queue()
        assert (await io.connect(qid=1, cntlid=done.cdw0 & 0xFFFF)).status == Sc.CONNECT_INVALID_PARAMETERS

    with_world(test)


async def authenticate(queue: Queue, known: bytes) -> bool:
    """Prove the knowledge of a key; whether the target believed it."""
    host = auth.Host(auth.Names(HOST_NQN, NQN, auth.Secret(0, known)), ["sha256"], ["null"])

    async def send(message: bytes) -> None:
        cdws = (auth.SECURITY_FIELDS, len(message))
        done, _unused = await queue.run(nvme.FABRICS_OPCODE, Fabrics.AUTHENTICATION_SEND, cdws, data=message)
        assert done.status == 0

    async def receive() -> bytes:
        cdws = (auth.SECURITY_FIELDS, 512)
        done, data = await queue.run(nvme.FABRICS_OPCODE, Fabrics.AUTHENTICATION_RECV, cdws, length=512)
        assert done.status == 0
        return data

    await send(host.negotiate())
    await send(host.reply(await receive()))
    try:
        host.finish(await receive())
    except auth.AuthError:
        return False
    return True


def test_a_host_that_proves_its_key_gets_in_on_every_queue() -> None:
    async def test(world: World) -> None:
        world.subsystem.add_host(Host(HOST_NQN, Key(bytes(32))))  # type: ignore[arg-type]
        admin = await world.queue()
        cntlid = (await admin.connect()).cdw0 & 0xFFFF
        assert not await authenticate(admin, b"x" * 32)
        admin = await world.queue()
        cntlid = (await admin.connect()).cdw0 & 0xFFFF
        assert await authenticate(admin, bytes(32))
        await admin.enable()
        io = await world.queue()
        assert (await io.connect(qid=1, cntlid=cntlid)).status == 0
        assert (await io.run(Io.READ, 1, (0, 0, 0), length=512))[0].status == Sc.AUTHENTICATION_REQUIRED
        assert await authenticate(io, bytes(32))
        assert await io.read(0, 1) == bytes(512)
        world.subsystem.set_keys(HOST_NQN, Key(b"n" * 32), None)  # type: ignore[arg-type]
        assert await io.read(0, 1) == bytes(512)
        assert await authenticate(io, b"n" * 32)
        assert not await authenticate(io, bytes(32))
        assert (await io.run(Io.READ, 1, (0, 0, 0), length=512))[0].status == Sc.AUTHENTICATION_REQUIRED

    with_world(test)


def test_commands_before_connect_are_out_of_sequence() -> None:
    async def test(world: World) -> None:
        queue = await world.queue()
        assert (await queue.run(Io.READ, 1, length=512))[0].status == Sc.SEQUENCE_ERROR
        assert (await queue.run(nvme.FABRICS_OPCODE, Fabrics.PROPERTY_GET, (0, 0x14)))[0].status == Sc.SEQUENCE_ERROR

    with_world(test)


def test_an_io_queue_needs_an_enabled_controller_and_a_free_number() -> None:
    async def test(world: World) -> None:
        admin = await world.queue()
        cntlid = (await admin.connect()).cdw0
        first = await world.queue()
        assert (await first.connect(qid=1, cntlid=cntlid)).status == Sc.CONNECT_INVALID_PARAMETERS
        await admin.enable()
        assert (await first.connect(qid=1, cntlid=cntlid)).status == 0
        second = await world.queue()
        assert (await second.connect(qid=1, cntlid=cntlid)).status == Sc.INVALID_QUEUE_IDENTIFIER
        assert (await second.connect(qid=3, cntlid=cntlid)).status == Sc.INVALID_QUEUE_IDENTIFIER
        assert (await second.connect(qid=2, cntlid=cntlid)).status == 0
        admin.close()
        assert await first.is_closed()
        assert await second.is_closed()

    with_world(test, max_io_qpairs_per_ctrlr=2)


def test_controller_identifiers_stay_in_their_range() -> None:
    async def test(world: World) -> None:
        await world.add_subsystem("nqn.2016-06.io.spdk:few", min_cntlid=5, max_cntlid=6)
        queues = [await world.queue() for _unused in range(3)]
        got = [await queue.connect(nqn="nqn.2016-06.io.spdk:few") for queue in queues]
        assert [(done.status, done.cdw0) for done in got] == [(0, 5), (0, 6), (Sc.INTERNAL_ERROR, 0)]

    with_world(test)


# Properties


def test_properties_reset_and_shutdown() -> None:
    async def test(world: World) -> None:
        admin, io = await world.io()
        cap = await admin.get_property(Property.CAP, 1)
        assert cap == await admin.get_property(Property.CAP + 4) << 32 | 0x1E01007F
        assert cap == 0x0800_0020_1E01_007F
        assert await admin.get_property(Property.VS) == 0x20000
        for offset, size in ((0x24, 0), (Property.CC, 1), (0x1000, 0)):
            done, _unused = await admin.run(nvme.FABRICS_OPCODE, Fabrics.PROPERTY_GET, (size, offset))
            assert done.status == Sc.CONNECT_INVALID_PARAMETERS
        assert await admin.set_property(Property.VS, 1) == Sc.CONNECT_INVALID_PARAMETERS
        assert await admin.set_property(Property.CC, 0x00460001 | 1 << 7) == Sc.CONNECT_INVALID_PARAMETERS
        assert await admin.set_property(Property.CC, 0x00464001) == 0
        assert await admin.get_property(Property.CSTS) == 9
        assert await io.is_closed()
        assert await admin.set_property(Property.CC, 0) == 0
        assert await admin.get_property(Property.CSTS) == 0
        assert (await admin.run(Admin.KEEP_ALIVE))[0].status == Sc.SEQUENCE_ERROR

    with_world(test)


# Identify


def test_identify_shows_the_controller_and_its_namespaces() -> None:
    async def test(world: World) -> None:
        wanted = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
        world.bdevs.register(MallocBdev("m5", 512, 8))
        world.subsystem.add_namespace("m5", 5, eui64=b"12345678", uuid=wanted)
        admin = await world.admin()
        controller = nvme.IDENTIFY_CONTROLLER.unpack(await admin.identify(Cns.CONTROLLER))
        assert nvme.text(controller["subnqn"]) == NQN
        assert (controller["nn"], controller["mdts"], controller["ioccsz"]) == (8, 5, (64 + 8192) // 16)
        always = nvme.ONCS_COMPARE | nvme.ONCS_RESERVATIONS | nvme.ONCS_COPY
        assert controller["oncs"] == always | nvme.ONCS_DATASET_MANAGEMENT | nvme.ONCS_WRITE_ZEROES
        assert nvme.parse_namespace_list(await admin.identify(Cns.ACTIVE_NAMESPACES)) == [1, 3, 5]
        assert nvme.parse_namespace_list(await admin.identify(Cns.ACTIVE_NAMESPACES, 3)) == [5]
        namespace = nvme.IDENTIFY_NAMESPACE.unpack(await admin.identify(Cns.NAMESPACE, 3))
        assert (namespace["nsze"], namespace["lbaf0_lbads"]) == (2048, 12)
        assert namespace["nguid"] == world.bdevs.get("m3").uuid.bytes
        assert await admin.identify(Cns.NAMESPACE, 2) == bytes(4096)
        descriptors = dict(nvme.parse_namespace_descriptors(await admin.identify(Cns.NAMESPACE_DESCRIPTORS, 5)))
        assert descriptors == {1: b"12345678", 2: world.bdevs.get("m5").uuid.bytes, 3: wanted.bytes}

    with_world(test)


@pytest.mark.parametrize(
    ("cns", "nsid", "length", "status"),
    [
        (Cns.NAMESPACE, 0, 4096, Sc.INVALID_NAMESPACE),
        (Cns.NAMESPACE, 9, 4096, Sc.INVALID_NAMESPACE),
        (Cns.NAMESPACE_DESCRIPTORS, 2, 4096, Sc.INVALID_FIELD),
        (Cns.ACTIVE_NAMESPACES, 0xFFFFFFFF, 4096, Sc.INVALID_NAMESPACE),
        (0x77, 0, 4096, Sc.INVALID_FIELD),
        (Cns.CONTROLLER, 0, 4092, Sc.INVALID_FIELD),
    ],
)
def test_identify_refuses(cns: int, nsid: int, length: int, status: int) -> None:
    async def test(world: World) -> None:
        admin = await world.admin()
        assert (await admin.run(Admin.IDENTIFY, nsid, (cns,), length=length))[0].status == status

    with_world(test)


# Features and log pages


def test_features_are_set_and_got() -> None:
    async def test(world: World) -> None:
        admin = await world.admin(kato=15000)
        queues = (await admin.run(Admin.SET_FEATURES, 0, (Feature.NUMBER_OF_QUEUES, 0x00030003)))[0]
        assert queues.cdw0 == 0x007E007E
        for feature, wanted in (
            (Feature.KEEP_ALIVE_TIMER, 20000),
            (Feature.ASYNC_EVENT_CONFIGURATION, nvme.NOTICE_NAMESPACE),
            (Feature.VOLATILE_WRITE_CACHE, 1),
        ):
            assert (await admin.run(Admin.GET_FEATURES, 0, (feature,)))[0].cdw0 == wanted
        assert (await admin.run(Admin.SET_FEATURES, 0, (Feature.ARBITRATION, 0x0F)))[0].status == 0
        assert (await admin.run(Admin.GET_FEATURES, 0, (Feature.ARBITRATION,)))[0].cdw0 == 0x0F
        assert (await admin.run(Admin.GET_FEATURES, 0, (0x77,)))[0].status == Sc.INVALID_FIELD
        refused = await admin.run(Admin.SET_FEATURES, 0, (Feature.KEEP_ALIVE_TIMER, 0))
        assert refused[0].status == Sc.KEEP_ALIVE_INVALID
        _unused, host_id = await admin.run(Admin.GET_FEATURES, 0, (Feature.HOST_IDENTIFIER, 1), length=16)
        assert host_id == uuid.UUID(int=9).bytes

    with_world(test)


def test_every_page_that_is_said_to_be_supported_can_be_read() -> None:
    async def test(world: World) -> None:
        await world.add_subsystem("nqn.2016-06.io.spdk:ana", ana_reporting=True)
        for nqn in (NQN, "nqn.2016-06.io.spdk:ana", nvme.DISCOVERY_NQN):
            admin = await world.admin(nqn=nqn)
            supported = struct.unpack("<256I", await admin.log_page(Lid.SUPPORTED_LOG_PAGES, 1024))
            for lid in range(256):
                cdws = (lid | 3 << 16,)
                done, data = await admin.run(Admin.GET_LOG_PAGE, 0, cdws, length=16)
                assert done.status == (0 if supported[lid] else Sc.INVALID_LOG_PAGE)
                assert len(data) == (16 if supported[lid] else 0)
            assert supported[Lid.ANA] == (nqn == "nqn.2016-06.io.spdk:ana")

    with_world(test)


@pytest.mark.parametrize(
    "cdws", [(Lid.HEALTH | 3 << 16, 0, 2), (Lid.HEALTH | 3 << 16, 0, 512), (Lid.HEALTH | 4 << 16,)]
)
def test_log_pages_are_read_inside_their_bounds(cdws: tuple[int, ...]) -> None:
    async def test(world: World) -> None:
        admin = await world.admin()
        assert (await admin.run(Admin.GET_LOG_PAGE, 0, cdws, length=16))[0].status == Sc.INVALID_FIELD

    with_world(test)


# Events


def test_namespaces_that_come_grow_and_go_are_told_and_listed() -> None:
    async def test(world: World) -> None:
        admin = await world.admin()
        world.bdevs.register(NullBdev("n", 512, 2048))

        async def changed() -> list[int]:
            assert await admin.event() == nvme.EVENT_NAMESPACE_CHANGED
            return nvme.parse_namespace_list(await admin.log_page(Lid.CHANGED_NAMESPACES))

        waiting = admin.submit(Admin.ASYNC_EVENT_REQUEST)
        world.subsystem.add_namespace("n", 6)
        assert (await admin.wait(waiting))[0].cdw0 == nvme.EVENT_NAMESPACE_CHANGED
        world.bdevs.resize(world.bdevs.get("n"), 4096)
        assert nvme.parse_namespace_list(await admin.log_page(Lid.CHANGED_NAMESPACES)) == [6]
        world.subsystem.remove_namespace(3)
        world.bdevs.unregister(world.bdevs.get("n"))
        assert await changed() == [3, 6]
        assert nvme.parse_namespace_list(await admin.identify(Cns.ACTIVE_NAMESPACES)) == [1]
        assert world.bdevs.find("n") is None
        assert nvme.parse_namespace_list(await admin.log_page(Lid.CHANGED_NAMESPACES)) == []

    with_world(test)


def test_a_bdev_that_is_removed_under_io_leaves_nothing_behind() -> None:
    async def test(world: World) -> None:
        _unused, queue = await world.io()
        cids = [queue.submit(Io.WRITE, 1, (0, 0, 31), length=16384) for _unused in range(3)]
        requests = [await queue.receive() for _unused in cids]
        world.bdevs.unregister(world.bdevs.get("m1"))
        for cid, request in zip(cids, requests, strict=True):
            queue.answer(request, bytes(16384))
            assert (await queue.wait(cid))[0].status == Sc.INVALID_NAMESPACE | nvme.DO_NOT_RETRY
        assert world.bdevs.find("m1") is None

    with_world(test)


def test_a_namespace_without_automatic_visibility_is_seen_by_its_hosts_only() -> None:
    async def test(world: World) -> None:
        world.bdevs.register(MallocBdev("m5", 512, 8))
        world.subsystem.add_namespace("m5", 5, auto_visible=False)
        admin, io = await world.io()
        assert nvme.parse_namespace_list(await admin.identify(Cns.ACTIVE_NAMESPACES)) == [1, 3]
        hidden = (await io.run(Io.READ, 5, (0, 0, 0), length=512))[0]
        assert hidden.status == Sc.INVALID_NAMESPACE | nvme.DO_NOT_RETRY
        world.subsystem.show_namespace(5, HOST_NQN, True)
        assert await admin.event() == nvme.EVENT_NAMESPACE_CHANGED
        assert nvme.parse_namespace_list(await admin.log_page(Lid.CHANGED_NAMESPACES)) == [5]
        assert await io.read(0, 1, nsid=5) == bytes(512)
        world.subsystem.show_namespace(5, HOST_NQN, False)
        assert await admin.event() == nvme.EVENT_NAMESPACE_CHANGED
        with pytest.raises(NvmfError):
            world.subsystem.show_namespace(1, HOST_NQN, True)

    with_world(test)


def test_ana_states_are_told_and_respected() -> None:
    async def test(world: World) -> None:
        nqn = "nqn.2016-06.io.spdk:ana"
        subsystem = await world.add_subsystem(nqn, ana_reporting=True)
        world.bdevs.register(MallocBdev("a", 512, 8))
        subsystem.add_namespace("a", 2, anagrpid=7)
        admin, io = await world.io(nqn=nqn)
        assert nvme.IDENTIFY_NAMESPACE.unpack(await admin.identify(Cns.NAMESPACE, 2))["anagrpid"] == 7
        assert await io.read(0, 1, nsid=2) == bytes(512)
        subsystem.set_ana_state(world.address(), "inaccessible")
        assert await admin.event() == nvme.EVENT_ANA_CHANGED
        page = await admin.log_page(Lid.ANA, 52)
        assert struct.unpack_from("<QH6x IIQB15xI", page) == (0, 1, 7, 1, 0, 3, 2)
        assert (await io.run(Io.READ, 2, (0, 0, 0), length=512))[0].status == Sc.ANA_INACCESSIBLE
        subsystem.set_ana_state(world.address(), "non_optimized", 7)
        assert await admin.event() == nvme.EVENT_ANA_CHANGED
        assert await io.read(0, 1, nsid=2) == bytes(512)
        with pytest.raises(NvmfError):
            world.subsystem.set_ana_state(world.address(), "optimized")

    with_world(test)


def test_event_requests_are_limited_and_can_be_aborted() -> None:
    async def test(world: World) -> None:
        admin = await world.admin()
        waiting = [admin.submit(Admin.ASYNC_EVENT_REQUEST) for _unused in range(4)]
        assert (await admin.run(Admin.ASYNC_EVENT_REQUEST))[0].status == Sc.AER_LIMIT_EXCEEDED
        abort = admin.submit(Admin.ABORT, cdws=(waiting[1] << 16,))
        assert (await admin.wait(waiting[1]))[0].status == Sc.ABORTED_BY_REQUEST
        assert (await admin.wait(abort))[0].cdw0 == 0
        assert (await admin.run(Admin.ABORT, cdws=(waiting[1] << 16,)))[0].cdw0 == 1

    with_world(test)


def test_a_write_that_waits_for_its_data_can_be_aborted() -> None:
    async def test(world: World) -> None:
        admin, io = await world.io()
        cid = io.submit(Io.WRITE, 1, (0, 0, 31), length=16384)
        await io.receive()
        assert (await admin.run(Admin.ABORT, cdws=(1 | cid << 16,)))[0].cdw0 == 0
        assert (await io.wait(cid))[0].status == Sc.ABORTED_BY_REQUEST
        assert await io.read(0, 1) == bytes(512)

    with_world(test)


# Keep alive


def test_a_host_that_falls_silent_is_disconnected() -> None:
    async def test(world: World) -> None:
        admin, io = await world.io(kato=100)
        begin = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < begin + 0.3:
            assert (await admin.run(Admin.KEEP_ALIVE))[0].status == 0
        assert await admin.is_closed()
        assert await io.is_closed()
        assert not world.subsystem.controllers

    with_world(test, min_kato=100, kas=1)


# Several subsystems, discovery


def test_subsystems_share_an_address_and_part_in_peace() -> None:
    async def test(world: World) -> None:
        other = "nqn.2016-06.io.spdk:s2"
        await world.add_subsystem(other)
        stays, (goes, _unused) = await world.admin(), await world.io(nqn=other)
        world.target.delete_subsystem(other)
        assert await goes.is_closed()
        assert len(await stays.identify(Cns.CONTROLLER)) == 4096
        assert (await (await world.queue()).connect(nqn=other)).status == Sc.CONNECT_INVALID_PARAMETERS
        world.target.remove_listener(world.subsystem, world.address())
        assert await stays.is_closed()
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", world.port)

    with_world(test)


def test_the_discovery_log_lists_what_the_host_may_use() -> None:
    async def test(world: World) -> None:
        hidden = await world.add_subsystem("nqn.2016-06.io.spdk:hidden")
        hidden.set_allow_any_host(False)
        world.target.add_referral(Referral(Address("TCP", "IPv4", "198.18.0.9", "8009")))
        admin = await world.admin(nqn=nvme.DISCOVERY_NQN, kato=60000)
        page = await admin.log_page(Lid.DISCOVERY, 4096)
        assert nvme.DISCOVERY_HEADER.unpack(page)["numrec"] == 2
        entries = [nvme.DISCOVERY_ENTRY.unpack(page[offset:]) for offset in (1024, 2048)]
        found = [
            (nvme.text(e["subnqn"]), nvme.text(e["traddr"]), nvme.text(e["trsvcid"]), e["subtype"]) for e in entries
        ]
        assert found == [(NQN, "127.0.0.1", str(world.port), 2), (nvme.DISCOVERY_NQN, "198.18.0.9", "8009", 1)]
        waiting = admin.submit(Admin.ASYNC_EVENT_REQUEST)
        hidden.add_host(Host(HOST_NQN))
        assert (await admin.wait(waiting))[0].cdw0 == nvme.EVENT_DISCOVERY_CHANGED
        assert nvme.DISCOVERY_HEADER.unpack(await admin.log_page(Lid.DISCOVERY, 1024))["numrec"] == 3
        assert (await admin.run(Admin.ABORT))[0].status == Sc.INVALID_OPCODE

    with_world(test)


# Names


@pytest.mark.parametrize(
    ("nqn", "valid"),
    [
        ("nqn.2016-06.io.spdk:s1", True),
        ("nqn.2014-08.org.nvmexpress.discovery", True),
        ("nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-000000000900", True),
        ("nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-0000000009001", False),
        ("nqn.2014-08.org.nvmexpress:uuid:zzzzzzzz-0000-4000-8000-000000000900", False),
        ("nqn.2016-06.io.spdk:", False),
        ("nqn.2016-06.io.spdk", False),
        ("nqn.2016-6.io.spdk:s", False),
        ("nqn.2016-06.io-.spdk:s", False),
        ("nqn.2016-06.1o.spdk:s", False),
        ("nqn.2016-06.i-o.spdk:ü", True),
        ("bad nqn", False),
        ("nqn.2016-06.io.spdk:" + "s" * 203, True),
        ("nqn.2016-06.io.spdk:" + "s" * 204, False),
    ],
)
def test_names_are_checked_as_spdk_does(nqn: str, valid: bool) -> None:
    assert is_valid_nqn(nqn) is valid
