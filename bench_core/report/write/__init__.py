"""Dresses a report: Markdown, a page, the terminal, the CSV, blocks of documentation; and writes its files."""
