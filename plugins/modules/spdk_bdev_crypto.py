#!/usr/bin/python

# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: spdk_bdev_crypto
short_description: Encrypt bdevs of an SPDK
version_added: 0.2.0
author:
  - ipdk.storage contributors (@ipdk-io)
description:
  - Brings a list of encrypted bdevs to the wanted state, in one connection. What is written to such a bdev is
    ciphertext on the bdev below.
  - Each has a key of its own. SPDK gets the key under a name with its fingerprint in it, so that a run sees another
    key, which is refused while the bdev is there.
  - A key is in no result, diff or message of this module. SPDK itself shows keys to whoever may use its RPC socket
    (C(accel_crypto_keys_get), C(framework_get_config)).
  - A bdev that is not in the list is left alone.
extends_documentation_fragment:
  - ipdk.storage.spdk
  - ipdk.storage.spdk.converges
options:
  crypto:
    description: The encrypted bdevs.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the encrypted bdev, unique in this SPDK.
        type: str
        required: true
      base_bdev:
        description:
          - Name of the bdev below, which is claimed. Required unless O(crypto[].state=absent).
        type: str
      cipher:
        description: V(AES_XTS), the one that SPDK's software accel module has. AES_CBC is refused.
        type: str
        default: AES_XTS
      key:
        description: The key of the data, 32 or 64 hexadecimal digits for AES-128 and AES-256.
        type: str
      key2:
        description: The key of the tweak, as long as O(crypto[].key) and another one.
        type: str
      key_file:
        description:
          - A file on the node for O(crypto[].key) and O(crypto[].key2), for its owner only, in a directory that is
            there. A node comes back with its encrypted bdevs by it, see M(ipdk.storage.spdk_target).
          - With keys given, the file gets them before SPDK does. Without, they are read from it.
          - It is removed with the bdev when O(crypto[].state=absent).
        type: path
      state:
        description: Whether the bdev is there. V(absent) removes it and its key from SPDK, and no data.
        type: str
        choices: [present, absent]
        default: present
  wait:
    description:
      - How many seconds to wait for the bdevs below to appear, all together, before anything is changed.
      - In check mode nothing is waited for.
    type: float
    default: 10.0
seealso:
  - module: ipdk.storage.spdk_target
"""

EXAMPLES = r"""
- name: An encrypted bdev with keys from Ansible Vault
  ipdk.storage.spdk_bdev_crypto:
    rpc_socket: /run/ipdk/ipu1/spdk/spdk.sock
    crypto:
      - name: st1n1c
        base_bdev: st1n1
        key: "{{ vault_vol00_key }}"
        key2: "{{ vault_vol00_key2 }}"
        key_file: /var/lib/ipdk/ipu1/keys/vol00.json

- name: Away with it and its key; the data stays, encrypted
  ipdk.storage.spdk_bdev_crypto:
    rpc_socket: /run/ipdk/ipu1/spdk/spdk.sock
    crypto:
      - {name: st1n1c, key_file: /var/lib/ipdk/ipu1/keys/vol00.json, state: absent}
"""

RETURN = r"""
key_files:
  description: The files that were C(written) and C(removed), or in check mode would be.
  returned: when the wanted state could be compared with the current one
  type: dict
  sample: {written: [/var/lib/ipdk/ipu1/keys/vol00.json], removed: []}
outcome:
  description: What was done, or in check mode would be; each entry with C(action), C(kind), C(name).
  returned: when the wanted state could be compared with the current one
  type: dict
  contains:
    applied:
      description: The changes made.
      type: list
      elements: dict
      sample: [{action: create, kind: encrypted bdev, name: st1n1c}]
    failed:
      description: The changes that failed, with C(reason).
      type: list
      elements: dict
    not_tried:
      description: The changes not tried because another one failed, with C(reason).
      type: list
      elements: dict
"""

from ansible_collections.ipdk.storage.plugins.module_utils._crypto import BDEV_CRYPTO, converge
from ansible_collections.ipdk.storage.plugins.module_utils._module import CONNECTION, run

ARGUMENTS = {
    **CONNECTION,
    "crypto": {"type": "list", "elements": "dict", "required": True, "options": BDEV_CRYPTO},
    "wait": {"type": "float", "default": 10.0},
}
work = converge


def main() -> None:
    run(ARGUMENTS, work)


if __name__ == "__main__":
    main()
