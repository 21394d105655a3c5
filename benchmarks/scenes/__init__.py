"""The reduced ImageNet problem: its scenes and networks, and what a CGN learns there."""
