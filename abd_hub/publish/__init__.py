"""This package writes model cards, exports image banks and uploads folders to the Hub."""
