"""This package draws pictures for people from records and tensors."""
