"""Small servers that misbehave on purpose: what no real server does when asked."""
