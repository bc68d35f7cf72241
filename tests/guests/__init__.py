"""A guest for tests: Debian's cloud kernel and busybox in an initramfs, booted by QEMU in four seconds under TCG.

::

    from guests import Guest

    with Guest(tmp_path, forward={4420: 14420}) as guest:  # 127.0.0.1:14420 here is port 4420 in the guest
        guest.load("nvme-tcp", "nvmet-tcp")  # kernel modules, with what they depend on
        guest.sh("nvme discover -t tcp -a 198.18.100.2 -s 4420")  # 198.18.100.2 is this machine's loopback
        guest.plug("sma-0", "/run/x/vhost/sma-0", slot=0)  # a vhost-user-blk disk, in guest.disks() by serial
        guest.qmp("query-pci")

``guest.sh`` runs a script with busybox's shell, fio and nvme-cli at hand, and raises :class:`CommandFailed` if it
fails. The guest is 198.18.100.15, its host NQN is in /etc/nvme/hostnqn, configfs is mounted once nvmet is loaded; the
console is kept in ``<directory>/console.log``. The image is built once into ``build/guests`` from Debian packages,
which apt downloads and nobody installs.
"""

from __future__ import annotations

from .guest import CommandFailed, Disk, Guest

__all__ = ["CommandFailed", "Disk", "Guest"]
