"""The words both sides speak: what crosses between the host and a container, and the formulas over it.

Pure: no clock, no network, no writing. Reading a file in order to parse or digest it is allowed
(see docs/decisions.md).
"""
