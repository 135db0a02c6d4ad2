"""From a request to the cells of a run, without side effects."""
