"""The one reader of pictures: which files are taken, what is damaged, which way is up."""
