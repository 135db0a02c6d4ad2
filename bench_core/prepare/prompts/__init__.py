"""From a dataset to prompts as token ids."""
