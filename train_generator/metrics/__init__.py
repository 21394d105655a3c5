"""Quality of drawn images and masks."""
