"""What one decides by: every cell in the numbers of a decision, the verdict, the choice within limits, the cost."""
