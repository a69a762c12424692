"""Nights of a search that goes on: their record, who succeeds whom, what is handed on, the morning report."""
