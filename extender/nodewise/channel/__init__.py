"""What extender and operator tell each other: decisions and reports one way, observations the other way."""
