"""What a run needs before it can measure: model, prompts, schedules, images and artifacts."""
