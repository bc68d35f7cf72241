"""A software SPDK: SPDK's JSON-RPC in front of a real NVMe/TCP and vhost-user-blk data path.

It stands in for ``spdk_tgt`` in the simulation. It is right rather than fast, and never a production target.
"""
