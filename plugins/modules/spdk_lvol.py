#!/usr/bin/python

# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: spdk_lvol
short_description: Create, grow, snapshot, clone and delete logical volumes of an SPDK, and their stores
version_added: 0.1.0
author:
  - ipdk.storage contributors (@ipdk-io)
description:
  - Brings lvol stores and the logical volumes in them to the wanted state, in one connection.
  - A store keeps its volumes on its base bdev and is there again as soon as that bdev is. What is not in the lists is
    left alone. An option that is left out keeps what exists.
  - The bdev of a logical volume is named by a UUID that SPDK chooses, with the alias C(store/name). It is by the alias
    that a volume is known here.
extends_documentation_fragment:
  - ipdk.storage.spdk
  - ipdk.storage.spdk.converges
options:
  stores:
    description: The lvol stores. A store that exists already may be named only for its O(stores[].overcommit).
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the store, unique in this SPDK.
        type: str
        required: true
      base_bdev:
        description:
          - The bdev to make the store on. B(What is on it is lost.)
          - Required for a store that is not there yet. Refused if something holds the bdev; cannot be changed later.
        type: str
      cluster_size:
        description:
          - Bytes, or a whole number with V(KiB), V(MiB) or V(GiB); a power of two from V(1MiB) on. Volumes have whole
            clusters.
          - V(4MiB) when the store is made and nothing is said. Cannot be changed later.
        type: str
      clear_method:
        description: What is done to the base bdev when the store is made; SPDK's own choice is V(unmap).
        type: str
        choices: [unmap, write_zeroes, none]
      overcommit:
        description:
          - How much all volumes of the store may be together, as a multiple of what it can hold. V(1.0) if nothing is
            said. Counted are all volumes in the store at their full size, and of snapshots what they hold.
          - Nothing that goes above it is created or grown. What is above it already stays.
          - There is a warning as soon as thin volumes promise more than the store can hold.
          - Not looked at for a store that is not in O(stores).
        type: float
      state:
        description: Whether the store is there. A store with volumes is deleted only with O(force).
        type: str
        choices: [present, absent]
        default: present
  lvols:
    description: The logical volumes.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the volume, unique in its store.
        type: str
        required: true
      store:
        description: Name of its store.
        type: str
        required: true
      size:
        description:
          - Bytes, or a whole number with V(KiB), V(MiB), V(GiB) or V(TiB); rounded up to whole clusters.
          - Required for a volume that is not there yet. A volume grows to it in place and is never shrunk.
        type: str
      thin:
        description:
          - Whether clusters are taken from the store only when they are written. V(false) when the volume is made and
            nothing is said.
          - A thin volume becomes thick in place (V(false)), but not while it stands on a snapshot. A thick one cannot
            become thin.
        type: bool
      snapshot_of:
        description:
          - The name of the volume in the same store that this one is a snapshot of, which is taken if it is not there.
            It has the volume's size and cannot be written.
          - The volume goes on from there, and is thin as long as it stands on a snapshot.
        type: str
      clone_of:
        description:
          - The name of the snapshot in the same store that this volume starts as. Its size is the snapshot's, or
            O(lvols[].size), if that is larger. It is thin.
          - Not looked at for a volume that is there.
        type: str
      clear_method:
        description: What is done to the clusters of a volume that is deleted, said when it is made.
        type: str
        choices: [unmap, write_zeroes, none]
      state:
        description: >-
          Whether the volume is there. V(absent) destroys its data; of a snapshot with one clone, the clone keeps what
          it needs, and one with more is refused.
        type: str
        choices: [present, absent]
        default: present
  force:
    description: Delete a store with all that is in it, and volumes even while a namespace or another bdev holds them.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: A store, and two volumes that may be twice what it holds
  ipdk.storage.spdk_lvol:
    rpc_socket: /run/ipdk/st1/spdk/spdk.sock
    stores:
      - {name: fast, base_bdev: fast-base, cluster_size: 1MiB, overcommit: 2.0}
    lvols:
      - {name: vol00, store: fast, size: 10GiB, thin: true}
      - {name: vol01, store: fast, size: 10GiB, thin: true}

- name: One of them grows
  ipdk.storage.spdk_lvol:
    rpc_socket: /run/ipdk/st1/spdk/spdk.sock
    lvols:
      - {name: vol00, store: fast, size: 12GiB}

- name: Take a snapshot of it
  ipdk.storage.spdk_lvol:
    rpc_socket: /run/ipdk/st1/spdk/spdk.sock
    lvols:
      - {name: monday, store: fast, snapshot_of: vol00}

- name: Work on a copy of it
  ipdk.storage.spdk_lvol:
    rpc_socket: /run/ipdk/st1/spdk/spdk.sock
    lvols:
      - {name: trial, store: fast, clone_of: monday}
"""

RETURN = r"""
outcome:
  description: What was done, or in check mode would be; each entry with C(action), C(kind), C(name).
  returned: when the wanted state could be compared with the current one
  type: dict
  contains:
    applied:
      description: The changes made.
      type: list
      elements: dict
      sample: [{action: create, kind: lvol, name: fast/vol00}]
    failed:
      description: The changes that failed, with C(reason).
      type: list
      elements: dict
    not_tried:
      description: The changes not tried because another one failed, with C(reason).
      type: list
      elements: dict
stores:
  description:
    - The stores of the lists as they are at the end, or in check mode would be. Sizes are in bytes.
    - C(capacity) is what it can hold, C(free) what no volume has taken of it, C(promised) the sum of its volumes,
      C(overcommit_ratio) that sum divided by the capacity.
  returned: when SPDK answered
  type: list
  elements: dict
  sample:
    - name: fast
      uuid: 2f3112ed-c1f5-4fab-8857-0ca9041edfd2
      base_bdev: fast-base
      cluster_size: 1048576
      capacity: 133169152
      free: 133169152
      promised: 67108864
      overcommit_ratio: 0.504
lvols:
  description:
    - The volumes of the list as they are at the end, or in check mode would be. Sizes are in bytes.
    - C(uuid) and C(bdev) are null where check mode has made no volume, C(allocated) where check mode cannot know what a
      clone takes over of a snapshot that goes.
  returned: when SPDK answered
  type: list
  elements: dict
  sample:
    - name: vol00
      store: fast
      alias: fast/vol00
      bdev: 5e0ff387-752c-416d-b1cc-0f180064434a
      uuid: 5e0ff387-752c-416d-b1cc-0f180064434a
      size: 67108864
      thin: true
      allocated: 0
"""

from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._lvols import LVOL, STORE, Lvols
from ansible_collections.ipdk.storage.plugins.module_utils._module import CONNECTION, run
from ansible_collections.ipdk.storage.plugins.module_utils._reconcile import Outcome
from ansible_collections.ipdk.storage.plugins.module_utils._resources import converge

ARGUMENTS = {
    **CONNECTION,
    "stores": {"type": "list", "elements": "dict", "default": [], "options": STORE},
    "lvols": {"type": "list", "elements": "dict", "default": [], "options": LVOL},
    "force": {"type": "bool", "default": False},
}


def work(given: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    family = Lvols(force=given["force"])

    def look(client: Any, outcome: Outcome, items: Any) -> dict[str, Any]:
        return family.results(client, items, outcome.after, check_mode)

    return converge(family, lambda: Lvols.normalise(given["stores"], given["lvols"]), given, check_mode, look)


def main() -> None:
    run(ARGUMENTS, work)


if __name__ == "__main__":
    main()
