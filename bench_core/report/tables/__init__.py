"""The tables of a report: columns declared once each, and which lines a table has."""
