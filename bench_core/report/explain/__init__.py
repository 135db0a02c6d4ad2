"""What a report says of a run in words: its head, the marks beside numbers and what they mean, who is fastest."""
