"""What a model's headers say: its layers, its stored weights, the work of a step."""
