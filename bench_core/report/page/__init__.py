"""The report as one HTML file: what a browser needs of a run, and the page around it."""
