"""The command `scripts/bench`: sets up the peers, runs the loads, writes what was measured."""
