"""The linear family: dictionaries fitted to data in closed form or by block coordinate descent."""
