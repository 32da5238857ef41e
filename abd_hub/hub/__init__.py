"""This package lists the files of Hub repositories and downloads them."""
