"""What the flows ask of the outside world: `mail`, `crm`, `store`. The comment over a method is its contract."""
