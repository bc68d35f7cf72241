"""NVMe as far as it does not depend on the transport: opcodes, status codes and the layouts of what is exchanged.

Section numbers are those of the NVMe base specification 2.0. All integers on the wire are little-endian.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from .pdu import Buffer

DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"
NQN_LIMIT = 223
BROADCAST_NSID = 0xFFFFFFFF
PAGE_SIZE = 4096
DYNAMIC_CNTLID = 0xFFFF
FABRICS_OPCODE = 0x7F


class Admin(enum.IntEnum):
    """Admin commands (5)."""

    GET_LOG_PAGE = 0x02
    IDENTIFY = 0x06
    ABORT = 0x08
    SET_FEATURES = 0x09
    GET_FEATURES = 0x0A
    ASYNC_EVENT_REQUEST = 0x0C
    KEEP_ALIVE = 0x18


class Io(enum.IntEnum):
    """Commands of the NVM command set."""

    FLUSH = 0x00
    WRITE = 0x01
    READ = 0x02
    WRITE_UNCORRECTABLE = 0x04
    COMPARE = 0x05
    WRITE_ZEROES = 0x08
    DATASET_MANAGEMENT = 0x09
    RESERVATION_REGISTER = 0x0D
    RESERVATION_REPORT = 0x0E
    RESERVATION_ACQUIRE = 0x11
    RESERVATION_RELEASE = 0x15
    COPY = 0x19


class Fabrics(enum.IntEnum):
    """Types of fabrics commands (6)."""

    PROPERTY_SET = 0x00
    CONNECT = 0x01
    PROPERTY_GET = 0x04
    AUTHENTICATION_SEND = 0x05
    AUTHENTICATION_RECV = 0x06


class Sc(enum.IntEnum):
    """Status: status code type << 8 | status code (3.3.3.2)."""

    SUCCESS = 0x000
    INVALID_OPCODE = 0x001
    INVALID_FIELD = 0x002
    INTERNAL_ERROR = 0x006
    ABORTED_BY_REQUEST = 0x007
    ABORTED_SQ_DELETION = 0x008
    ABORTED_FAILED_FUSED = 0x009
    ABORTED_MISSING_FUSED = 0x00A
    INVALID_NAMESPACE = 0x00B
    SEQUENCE_ERROR = 0x00C
    DATA_SGL_LENGTH_INVALID = 0x00F
    HOST_IDENTIFIER_INCONSISTENT_FORMAT = 0x018
    KEEP_ALIVE_INVALID = 0x01B
    COMMAND_INTERRUPTED = 0x021
    TRANSIENT_TRANSPORT_ERROR = 0x022
    LBA_OUT_OF_RANGE = 0x080
    RESERVATION_CONFLICT = 0x083
    INVALID_QUEUE_IDENTIFIER = 0x101
    AER_LIMIT_EXCEEDED = 0x105
    INVALID_LOG_PAGE = 0x109
    FEATURE_NOT_SAVEABLE = 0x10D
    FEATURE_NOT_CHANGEABLE = 0x10E
    CONNECT_INCOMPATIBLE_FORMAT = 0x180
    CONNECT_INVALID_PARAMETERS = 0x182
    CONNECT_INVALID_HOST = 0x184
    AUTHENTICATION_REQUIRED = 0x191
    SIZE_LIMIT_EXCEEDED = 0x183
    COMPARE_FAILURE = 0x285
    ANA_INACCESSIBLE = 0x302


DO_NOT_RETRY = 0x4000
"""A bit of a status as :func:`completion` takes it."""


class Feature(enum.IntEnum):
    """Feature identifiers (5.27.1)."""

    ARBITRATION = 0x01
    POWER_MANAGEMENT = 0x02
    TEMPERATURE_THRESHOLD = 0x04
    ERROR_RECOVERY = 0x05
    VOLATILE_WRITE_CACHE = 0x06
    NUMBER_OF_QUEUES = 0x07
    INTERRUPT_COALESCING = 0x08
    INTERRUPT_VECTOR_CONFIGURATION = 0x09
    WRITE_ATOMICITY = 0x0A
    ASYNC_EVENT_CONFIGURATION = 0x0B
    KEEP_ALIVE_TIMER = 0x0F
    HOST_BEHAVIOR_SUPPORT = 0x16
    HOST_IDENTIFIER = 0x81
    RESERVATION_NOTIFICATION_MASK = 0x82
    RESERVATION_PERSISTENCE = 0x83


class Lid(enum.IntEnum):
    """Log page identifiers (5.16.1)."""

    SUPPORTED_LOG_PAGES = 0x00
    ERROR = 0x01
    HEALTH = 0x02
    FIRMWARE_SLOT = 0x03
    CHANGED_NAMESPACES = 0x04
    COMMAND_EFFECTS = 0x05
    ANA = 0x0C
    FEATURE_EFFECTS = 0x12
    MI_COMMAND_EFFECTS = 0x13
    DISCOVERY = 0x70
    RESERVATION_NOTIFICATION = 0x80


class Cns(enum.IntEnum):
    """What an Identify command asks for (5.17.1)."""

    NAMESPACE = 0x00
    CONTROLLER = 0x01
    ACTIVE_NAMESPACES = 0x02
    NAMESPACE_DESCRIPTORS = 0x03
    NAMESPACE_OF_COMMAND_SET = 0x05
    CONTROLLER_OF_COMMAND_SET = 0x06
    ACTIVE_NAMESPACES_OF_COMMAND_SET = 0x07
    NAMESPACE_INDEPENDENT = 0x08


class Property(enum.IntEnum):
    """Offsets of controller properties (3.1.3)."""

    CAP = 0x00
    VS = 0x08
    CC = 0x14
    CSTS = 0x1C
    NSSR = 0x20
    CRTO = 0x68


CC_ENABLE = 0x1
CC_SHN_SHIFT = 14
CC_IOSQES_SHIFT = 16
CC_IOCQES_SHIFT = 20
CSTS_READY = 0x1
CSTS_SHUTDOWN_COMPLETE = 0x8

EVENT_NAMESPACE_CHANGED = 0x02 | 0x00 << 8 | Lid.CHANGED_NAMESPACES << 16
EVENT_ANA_CHANGED = 0x02 | 0x03 << 8 | Lid.ANA << 16
EVENT_DISCOVERY_CHANGED = 0x02 | 0xF0 << 8 | Lid.DISCOVERY << 16
EVENT_RESERVATION = 0x06 | 0x00 << 8 | Lid.RESERVATION_NOTIFICATION << 16
"""Dword 0 of an asynchronous event's completion (5.2.1): type (notice; I/O command specific), information, log page."""

NOTICE_NAMESPACE = 1 << 8
NOTICE_ANA = 1 << 11
NOTICE_DISCOVERY = 1 << 31
"""Bits of OAES in Identify Controller and of the asynchronous event configuration feature."""

ONCS_COMPARE = 1 << 0
ONCS_DATASET_MANAGEMENT = 1 << 2
ONCS_WRITE_ZEROES = 1 << 3
ONCS_RESERVATIONS = 1 << 5
ONCS_COPY = 1 << 8
FUSES_COMPARE_AND_WRITE = 1 << 0
RESCAP_PERSISTENCE = 1 << 0
RESCAP_ALL_TYPES = 0x7E
"""All six types of reservation."""
RESCAP_IGNORE_EXISTING_KEY = 1 << 7
NSFEAT_ATOMIC_UNITS = 1 << 1
"""The namespace has its own atomic write units, NACWU among them."""

SGL_IN_CAPSULE = 0x01
"""SGL identifier byte: data block, offset: the data follows in the capsule."""
SGL_TRANSPORT = 0x5A
"""SGL identifier byte: transport data block: the transport moves the data."""

AUTHENTICATION_REQUIRED = 1 << 17
"""AUTHREQ.ATR in dword 0 of Connect's completion."""
NAMESPACE_LIST_LIMIT = 1024

_SQE = struct.Struct("<BBHI8xQQI3xB6I")
_CQE = struct.Struct("<IIHHHH")
_PROPERTY_CQE = struct.Struct("<QHHHH")
SQE_FLAGS = 0x40
"""PSDT: SGLs are used."""
FUSED_FIRST, FUSED_SECOND = 1, 2
FUSED_MASK = 3
"""FUSE, the bits of the same byte that make a command one of two."""


class Command(NamedTuple):
    """A submission queue entry."""

    opcode: int
    flags: int
    cid: int
    nsid: int
    metadata: int
    sgl_address: int
    sgl_length: int
    sgl_id: int
    cdw10: int
    cdw11: int
    cdw12: int
    cdw13: int
    cdw14: int
    cdw15: int

    @classmethod
    def unpack(cls, sqe: Buffer) -> Command:
        return cls._make(_SQE.unpack(sqe))

    @property
    def fctype(self) -> int:
        """The type of a fabrics command; it lies where others have the namespace."""
        return self.nsid & 0xFF


def command(
    opcode: int,
    cid: int,
    nsid: int = 0,
    length: int = 0,
    in_capsule: bool = False,
    cdws: tuple[int, ...] = (),
) -> bytes:
    """A submission queue entry; ``cdws`` are command dwords 10 and up, ``nsid`` the type of a fabrics command."""
    sgl = SGL_IN_CAPSULE if in_capsule else SGL_TRANSPORT
    return _SQE.pack(opcode, SQE_FLAGS, cid, nsid, 0, 0, length, sgl, *cdws, *(0,) * (6 - len(cdws)))


class Completion(NamedTuple):
    """A completion queue entry. ``status`` is Sc plus, maybe, DO_NOT_RETRY."""

    cdw0: int
    cdw1: int
    sqhd: int
    sqid: int
    cid: int
    status: int

    @property
    def value(self) -> int:
        """Both dwords of the result, as Property Get uses them."""
        return self.cdw0 | self.cdw1 << 32

    @classmethod
    def unpack(cls, cqe: Buffer) -> Completion:
        cdw0, cdw1, sqhd, sqid, cid, status = _CQE.unpack(cqe)
        return cls(cdw0, cdw1, sqhd, sqid, cid, status >> 1)


def completion(cid: int, sqhd: int, status: int = 0, value: int = 0) -> bytes:
    """A completion queue entry; ``value`` fills dwords 0 and 1."""
    return _PROPERTY_CQE.pack(value, sqhd, 0, cid, status << 1)


class Layout:
    """A data structure of fixed size: names, offsets and :mod:`struct` formats of the fields that anybody here uses."""

    def __init__(self, size: int, **fields: tuple[int, str]) -> None:
        self.size = size
        self.fields = {name: (offset, struct.Struct("<" + form)) for name, (offset, form) in fields.items()}

    def pack(self, **values: Any) -> bytes:
        """The structure with these fields; all others are zero."""
        data = bytearray(self.size)
        for name, value in values.items():
            offset, form = self.fields[name]
            form.pack_into(data, offset, value)
        return bytes(data)

    def unpack(self, data: Buffer) -> dict[str, Any]:
        """Every field. ``data`` holds at least the structure's size."""
        return {name: form.unpack_from(data, offset)[0] for name, (offset, form) in self.fields.items()}


IDENTIFY_CONTROLLER = Layout(
    4096,
    vid=(0, "H"),
    ssvid=(2, "H"),
    sn=(4, "20s"),
    mn=(24, "40s"),
    fr=(64, "8s"),
    rab=(72, "B"),
    ieee=(73, "3s"),
    cmic=(76, "B"),
    mdts=(77, "B"),
    cntlid=(78, "H"),
    ver=(80, "I"),
    oaes=(92, "I"),
    ctratt=(96, "I"),
    cntrltype=(111, "B"),
    crdt1=(128, "H"),
    crdt2=(130, "H"),
    crdt3=(132, "H"),
    oacs=(256, "H"),
    acl=(258, "B"),
    aerl=(259, "B"),
    frmw=(260, "B"),
    lpa=(261, "B"),
    elpe=(262, "B"),
    npss=(263, "B"),
    wctemp=(266, "H"),
    cctemp=(268, "H"),
    kas=(320, "H"),
    anatt=(342, "B"),
    anacap=(343, "B"),
    anagrpmax=(344, "I"),
    nanagrpid=(348, "I"),
    sqes=(512, "B"),
    cqes=(513, "B"),
    maxcmd=(514, "H"),
    nn=(516, "I"),
    oncs=(520, "H"),
    fuses=(522, "H"),
    vwc=(525, "B"),
    acwu=(532, "H"),
    ocfs=(534, "H"),
    sgls=(536, "I"),
    mnan=(540, "I"),
    subnqn=(768, "256s"),
    ioccsz=(1792, "I"),
    iorcsz=(1796, "I"),
    icdoff=(1800, "H"),
    fcatt=(1802, "B"),
    msdbd=(1803, "B"),
)

IDENTIFY_NAMESPACE = Layout(
    4096,
    nsze=(0, "Q"),
    ncap=(8, "Q"),
    nuse=(16, "Q"),
    nsfeat=(24, "B"),
    nlbaf=(25, "B"),
    flbas=(26, "B"),
    nmic=(30, "B"),
    rescap=(31, "B"),
    nawupf=(36, "H"),
    nacwu=(38, "H"),
    noiob=(46, "H"),
    npwg=(64, "H"),
    npwa=(66, "H"),
    npdg=(68, "H"),
    npda=(70, "H"),
    nows=(72, "H"),
    mssrl=(74, "H"),
    mcl=(76, "I"),
    msrc=(80, "B"),
    anagrpid=(92, "I"),
    nguid=(104, "16s"),
    eui64=(120, "8s"),
    lbaf0_ms=(128, "H"),
    lbaf0_lbads=(130, "B"),
    lbaf0_rp=(131, "B"),
)

IDENTIFY_CONTROLLER_NVM = Layout(
    4096, vsl=(0, "B"), wzsl=(1, "B"), wusl=(2, "B"), dmrl=(3, "B"), dmrsl=(4, "I"), dmsl=(8, "Q")
)
"""The NVM command set's own part of Identify Controller."""

IDENTIFY_NAMESPACE_INDEPENDENT = Layout(
    4096, nsfeat=(0, "B"), nmic=(1, "B"), rescap=(2, "B"), anagrpid=(4, "I"), nstat=(14, "B")
)
"""The part of Identify Namespace that is the same for all command sets."""

RESERVATION_STATUS = Layout(64, gen=(0, "I"), rtype=(4, "B"), regctl=(5, "H"), ptpls=(9, "B"))
"""What a Reservation Report begins with, where it has the extended data structure (7.5)."""
REGISTRANT = Layout(64, cntlid=(0, "H"), rcsts=(2, "B"), rkey=(8, "Q"), hostid=(16, "16s"))
"""What follows for each registrant."""
RESERVATION_NOTIFICATION = Layout(64, count=(0, "Q"), kind=(8, "B"), available=(9, "B"), nsid=(12, "I"))
"""A reservation notification log page."""

CONNECT_DATA = Layout(1024, hostid=(0, "16s"), cntlid=(16, "H"), subnqn=(256, "256s"), hostnqn=(512, "256s"))

DISCOVERY_HEADER = Layout(1024, genctr=(0, "Q"), numrec=(8, "Q"), recfmt=(16, "H"))
DISCOVERY_ENTRY = Layout(
    1024,
    trtype=(0, "B"),
    adrfam=(1, "B"),
    subtype=(2, "B"),
    treq=(3, "B"),
    portid=(4, "H"),
    cntlid=(6, "H"),
    asqsz=(8, "H"),
    eflags=(10, "H"),
    trsvcid=(32, "32s"),
    subnqn=(256, "256s"),
    traddr=(512, "256s"),
    tsas=(768, "256s"),
)
SUBTYPE_DISCOVERY = 1
"""A discovery service elsewhere: a referral."""
SUBTYPE_NVME = 2
SUBTYPE_CURRENT_DISCOVERY = 3
TRTYPE_TCP = 3
ADRFAM = {"IPv4": 1, "IPv6": 2}
EFLAGS_CURRENT_DISCOVERY = 0x3
"""DUPRETINFO and EPCSD."""
TREQ_SECURE_CHANNEL = 0x1
TREQ_NO_SECURE_CHANNEL = 0x2


def text(value: bytes) -> str:
    """A string field, without what it is padded with."""
    return value.split(b"\0", 1)[0].decode("utf-8", "replace").rstrip(" ")


def namespace_list(nsids: Iterable[int]) -> bytes:
    """The first 1,024 namespace identifiers, as a page."""
    chosen = list(nsids)[:NAMESPACE_LIST_LIMIT]
    return struct.pack(f"<{len(chosen)}I", *chosen).ljust(PAGE_SIZE, b"\0")


def parse_namespace_list(page: Buffer) -> list[int]:
    """The identifiers up to the first zero."""
    nsids = []
    for (nsid,) in struct.iter_unpack("<I", bytes(page)):
        if not nsid:
            break
        nsids.append(nsid)
    return nsids


DESCRIPTOR_EUI64 = 1
DESCRIPTOR_NGUID = 2
DESCRIPTOR_UUID = 3


def namespace_descriptors(descriptors: Iterable[tuple[int, bytes]]) -> bytes:
    """A page of namespace identification descriptors: pairs of type and value."""
    page = b"".join(struct.pack("<BBxx", kind, len(value)) + value for kind, value in descriptors)
    return page.ljust(PAGE_SIZE, b"\0")


def parse_namespace_descriptors(page: Buffer) -> Iterator[tuple[int, bytes]]:
    """Pairs of type and value."""
    page = bytes(page)
    position = 0
    while position + 4 <= len(page) and page[position + 1]:
        kind, length = page[position], page[position + 1]
        yield kind, page[position + 4 : position + 4 + length]
        position += 4 + length
