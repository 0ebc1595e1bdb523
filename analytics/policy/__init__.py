"""Who is to be shown next: a bandit's weights, a duel's pairs. Pure functions of what is known."""
