"""Comparisons from people: items, the database of votes, the page that annotators see, and what their votes are worth."""
