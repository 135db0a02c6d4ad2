"""Inside the container: the clock, the batches, the samples of memory and power, the event log. Names no engine."""
