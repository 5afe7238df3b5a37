"""What a decoder is trained for: tasks and their losses."""
