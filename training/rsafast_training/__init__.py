"""Learning rules, models and features. Nothing is here yet: see CHANGELOG.md for what exists."""
