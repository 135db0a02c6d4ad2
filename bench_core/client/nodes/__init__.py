"""Load generators on other hosts: one schedule dealt out among them, their clocks compared, their answers gathered."""
