"""Pictures for people, made from records and tensors."""
