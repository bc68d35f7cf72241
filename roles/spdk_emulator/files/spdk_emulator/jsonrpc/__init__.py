"""JSON-RPC 2.0 as SPDK speaks it: the wire, the table of methods, the decoding of their parameters."""
