"""The reduced ImageNet problem: scenes, networks of them, and what a CGN learns of them."""
