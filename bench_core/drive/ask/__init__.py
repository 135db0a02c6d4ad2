"""From the command line and a suite file to a request."""
