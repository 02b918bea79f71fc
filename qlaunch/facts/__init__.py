"""What the host is: frozen data, and the probes that read it. Nothing here changes anything."""
