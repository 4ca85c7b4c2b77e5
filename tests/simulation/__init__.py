"""The rim on a virtual clock, against a simulated network and venue, through random faults:
`python -m tests.simulation`.
"""
