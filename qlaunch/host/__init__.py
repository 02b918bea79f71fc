"""Effects on the host, one subject a file: a handler per step with capture, apply and undo."""
