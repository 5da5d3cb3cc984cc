"""What happens while a trial runs: measuring its iterations, and tuning it."""
