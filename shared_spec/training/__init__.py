"""What training means in every framework: recipes, schedules, and the state of a run."""
