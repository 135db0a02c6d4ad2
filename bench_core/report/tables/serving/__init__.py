"""Tables of cells under load: beside each other, in detail, at a glance, and searches for the highest load."""
