"""What the collection costs: one module a part, measured by the command `run`."""
