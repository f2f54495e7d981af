"""What Meshward tells of itself: metrics and logs."""
