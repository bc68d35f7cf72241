"""The NVMe-oF target.

``models.py`` has the target with its transport, listening sockets and referrals, ``subsystem.py`` a subsystem with
namespaces, hosts and listeners, ``controller.py`` what one connected host talks to, ``connection.py`` one NVMe/TCP
connection of it (a queue pair), ``rpc.py`` the JSON-RPC methods. ``reservations.py`` is who reserves a namespace,
``reserving.py`` has the commands that change that. ``tracepoints.py`` is what is recorded in the file of traces.
"""
