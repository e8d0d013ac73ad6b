"""What a trainer pod says of itself in numbers."""
