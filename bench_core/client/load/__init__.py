"""The load generators: processes that send requests and keep the times, and do nothing else while the clock runs."""
