"""Stand-ins for what is not ours: real servers that behave like a gateway, its faults included."""
