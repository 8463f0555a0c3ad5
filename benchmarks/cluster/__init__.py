"""A cluster: what it costs, and, simulated, how many machines share the work."""
