"""What a run's files hold, and how they are read and written."""
