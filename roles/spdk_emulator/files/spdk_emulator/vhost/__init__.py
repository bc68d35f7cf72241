"""vhost-user-blk controllers: sockets, sessions and queues in front of bdevs."""
