"""The floor below the rooms: files, locks, text, and what this machine is."""
