"""How good drawn images and masks are."""
