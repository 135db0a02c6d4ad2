"""Several runs on one page: what is equal, what differs, and a ranking for each set of runs that may share one."""
