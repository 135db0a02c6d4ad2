"""The streams of a closed loop: when each sends its next request. Without imports, as load generators use it."""

# After a connection that was refused; else at once. A server that refuses answers in microseconds, and a loop without
# a pause would do nothing but ask it.
PAUSE_AFTER_REFUSED_NS = 250_000_000
