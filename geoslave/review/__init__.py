"""People look at what the model flagged: tasks, votes, verdicts."""
