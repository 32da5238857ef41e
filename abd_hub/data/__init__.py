"""Images that are measured or trained on, and how a poisoned training set is made of them."""
