"""The probe of masks, from their data to their result."""
