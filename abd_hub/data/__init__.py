"""Images for measurements and for training, and poisoned training sets that are made from them."""
