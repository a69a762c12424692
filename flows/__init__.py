"""How it all runs: configuration, the search flow, tracking, reports and the command line."""
