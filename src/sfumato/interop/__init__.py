"""Foreign files read and written: the only room that knows the names which others gave to things."""
