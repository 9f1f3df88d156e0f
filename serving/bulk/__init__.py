"""What `python -m serving.score` is made of: rows, readers, answers, processes, and going on after a kill."""
