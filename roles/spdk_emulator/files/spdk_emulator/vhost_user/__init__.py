"""vhost-user and virtio-blk without I/O: messages, guest memory, virtqueues, requests.

Nothing here owns a socket, an event loop or a bdev; ``vhost/`` does. All numbers on these wires are little endian, and
so are the machines that this runs on (:mod:`virtqueue` casts guest memory to native integers).
"""
