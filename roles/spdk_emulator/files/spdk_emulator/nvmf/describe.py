"""The target as JSON: the objects that methods answer with, and the calls that make it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..framework import cores
from ..nvme_tcp.auth import GROUPS, HASHES, Controller
from .subsystem import FILTER_FIELDS, Host, Listener, Namespace, Subsystem

if TYPE_CHECKING:
    from .connection import Connection
    from .controller import Controller as SubsystemController
    from .models import Nvmf, PollGroup, Referral, TransportOptions

ADMIN_PASSTHROUGH = (
    "identify_ctrlr",
    "identify_uuid_list",
    "get_log_page",
    "get_set_features",
    "sanitize",
    "security_send_recv",
    "fw_update",
    "nvme_mi",
    "vendor_specific",
)

_TRANSPORT_SHOWN = (
    "trtype",
    "max_queue_depth",
    "max_io_qpairs_per_ctrlr",
    "in_capsule_data_size",
    "max_io_size",
    "max_aq_depth",
    "iobuf_small_cache_size",
    "iobuf_large_cache_size",
    "dif_insert_or_strip",
    "zcopy",
    "c2h_success",
    "sock_priority",
    "abort_timeout_sec",
    "ack_timeout",
    "data_wr_pool_size",
    "disable_command_passthru",
    "kas",
    "min_kato",
)


def describe_transport(transport: TransportOptions) -> dict[str, Any]:
    return {name: getattr(transport, name) for name in _TRANSPORT_SHOWN}


def describe_host(host: Host) -> dict[str, Any]:
    answer = {"nqn": host.nqn}
    if host.dhchap_key:
        answer["dhchap_key"] = host.dhchap_key.name
    if host.dhchap_ctrlr_key:
        answer["dhchap_ctrlr_key"] = host.dhchap_ctrlr_key.name
    return answer


def _identifiers(namespace: Namespace) -> dict[str, Any]:
    answer = {}
    if any(namespace.nguid):
        answer["nguid"] = namespace.nguid.hex().upper()
    if any(namespace.eui64):
        answer["eui64"] = namespace.eui64.hex().upper()
    if namespace.uuid.int:
        answer["uuid"] = str(namespace.uuid)
    return answer


def describe_subsystem(subsystem: Subsystem) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "nqn": subsystem.nqn,
        "subtype": "Discovery" if subsystem.is_discovery else "NVMe",
        "listen_addresses": [listener.address._asdict() for listener in subsystem.listeners],
        "allow_any_host": subsystem.allow_any_host,
        "hosts": [describe_host(host) for host in subsystem.hosts.values()],
    }
    if subsystem.is_discovery:
        return answer
    options = subsystem.options
    return answer | {
        "serial_number": options.serial_number,
        "model_number": options.model_number,
        "max_namespaces": options.max_namespaces,
        "passthrough": options.passthrough,
        "min_cntlid": options.min_cntlid,
        "max_cntlid": options.max_cntlid,
        "dmrsl": options.dmrsl,
        "wzsl": options.wzsl,
        "namespaces": [
            {
                "nsid": namespace.nsid,
                "bdev_name": namespace.bdev.name,
                "name": namespace.bdev.name,
                **_identifiers(namespace),
                **({"anagrpid": namespace.anagrpid} if options.ana_reporting else {}),
            }
            for namespace in subsystem.namespaces.values()
        ],
    }


def describe_listener(subsystem: Subsystem, listener: Listener) -> dict[str, Any]:
    answer: dict[str, Any] = {"address": listener.address._asdict()}
    if subsystem.options.ana_reporting:
        answer["ana_states"] = [
            {"ana_group": group, "ana_state": state} for group, state in enumerate(listener.ana_states, 1)
        ]
    return answer


def describe_authentication(auth: Controller) -> dict[str, Any]:
    return {
        "state": auth.state,
        "digest": HASHES.get(auth.hash_id, "unknown"),
        "dhgroup": GROUPS.get(auth.group, "unknown"),
    }


def describe_referral(referral: Referral) -> dict[str, Any]:
    return {
        "address": referral.address._asdict(),
        "secure_channel": referral.secure_channel,
        "subnqn": referral.subnqn,
    }


def describe_poll_group(group: PollGroup, target: Nvmf) -> dict[str, Any]:
    stats = group.stats
    return {
        "name": group.thread.name,
        "admin_qpairs": stats.admin_qpairs,
        "io_qpairs": stats.io_qpairs,
        "current_admin_qpairs": stats.current_admin_qpairs,
        "current_io_qpairs": stats.current_io_qpairs,
        "current_unassociated_qpairs": len(group.connections) - stats.current_admin_qpairs - stats.current_io_qpairs,
        "pending_bdev_io": 0,
        "completed_nvme_io": stats.io,
        "transports": [{"trtype": target.transport.trtype}] if target.transport else [],
    }


def describe_qpair(controller: SubsystemController, queue: Connection) -> dict[str, Any]:
    return {
        "cntlid": controller.cntlid,
        "qid": queue.qid,
        "state": queue.state,
        "thread": queue.group.thread.name,
        "hostnqn": controller.host_nqn,
        "listen_address": queue.address._asdict(),
        "peer_address": queue.address._replace(traddr=queue.peer[0], trsvcid=queue.peer[1])._asdict(),
        **({"auth": describe_authentication(queue.auth)} if queue.auth else {}),
    }


def calls(target: Nvmf) -> list[Any]:
    """The calls that make the target what it is now, in the order in which they have to be made; lists are batches."""
    settings = target.config
    ours = [subsystem for subsystem in target if not subsystem.is_discovery]
    first = [
        _call(
            "nvmf_set_config",
            {
                "discovery_filter": ",".join(name for name in FILTER_FIELDS if name in settings.discovery_filter)
                or "match_any",
                "admin_cmd_passthru": dict.fromkeys(ADMIN_PASSTHROUGH, False),
                **({} if settings.poll_groups is None else {"poll_groups_mask": cores.mask(settings.poll_groups)}),
                "dhchap_digests": settings.dhchap_digests,
                "dhchap_dhgroups": settings.dhchap_dhgroups,
                "dup_host_policy": settings.dup_host_policy,
            },
        ),
        _call("nvmf_set_max_subsystems", {"max_subsystems": target.max_subsystems}),
        _call("nvmf_set_crdt", {f"crdt{number}": value for number, value in enumerate(target.crdt, 1)}),
    ]
    if target.transport:
        first.append(_call("nvmf_create_transport", describe_transport(target.transport)))
    first += [_call("nvmf_discovery_add_referral", describe_referral(referral)) for referral in target.referrals]
    return [
        *first,
        [_call("nvmf_create_subsystem", _create_call(subsystem)) for subsystem in ours],
        [
            _call("nvmf_subsystem_add_host", {"nqn": subsystem.nqn, "host": described.pop("nqn"), **described})
            for subsystem in ours
            for described in map(describe_host, subsystem.hosts.values())
        ],
        [
            _call("nvmf_subsystem_add_ns", _add_namespace_call(subsystem, namespace))
            for subsystem in ours
            for namespace in subsystem.namespaces.values()
        ],
        [
            _call("nvmf_ns_add_host", {"nqn": subsystem.nqn, "nsid": namespace.nsid, "host": host_nqn})
            for subsystem in ours
            for namespace in subsystem.namespaces.values()
            for host_nqn in sorted(namespace.hosts or ())
        ],
        [
            _call(
                "nvmf_subsystem_add_listener",
                {
                    "nqn": subsystem.nqn,
                    "listen_address": listener.address._asdict(),
                    "secure_channel": listener.secure_channel,
                },
            )
            for subsystem in target
            for listener in subsystem.listeners
        ],
    ]


def _call(method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"method": method, "params": params}


def _create_call(subsystem: Subsystem) -> dict[str, Any]:
    options = subsystem.options
    return {
        "nqn": subsystem.nqn,
        "allow_any_host": subsystem.allow_any_host,
        "serial_number": options.serial_number,
        "model_number": options.model_number,
        "max_namespaces": options.max_namespaces,
        "min_cntlid": options.min_cntlid,
        "max_cntlid": options.max_cntlid,
        "ana_reporting": options.ana_reporting,
        "dmrsl": options.dmrsl,
        "wzsl": options.wzsl,
        "passthrough": options.passthrough,
        "enable_nssr": options.enable_nssr,
    }


def _add_namespace_call(subsystem: Subsystem, namespace: Namespace) -> dict[str, Any]:
    described: dict[str, Any] = {"nsid": namespace.nsid, "bdev_name": namespace.bdev.name}
    if namespace.reserving.path is not None:
        described["ptpl_file"] = namespace.reserving.path
    described |= _identifiers(namespace)
    if subsystem.options.ana_reporting:
        described["anagrpid"] = namespace.anagrpid
    described["no_auto_visible"] = namespace.hosts is not None
    return {"nqn": subsystem.nqn, "namespace": described}
