"""The command `scripts/bench`: sets up the peers, runs the loads, and writes the results."""
