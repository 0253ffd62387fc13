"""Write pictures and a sound as a file that is otherwise the source: its format, its tags, its other streams."""
