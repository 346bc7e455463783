"""Static networks that timm does not have."""
