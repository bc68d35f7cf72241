"""NVMe/TCP without I/O: PDUs, digests and NVMe structures, for the target (nvmf) and the initiator (bdev_nvme)."""
